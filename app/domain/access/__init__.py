"""Principals, API keys and access control lists."""
