"""Quotas of requests."""
