"""Webhooks: push records of topics to URLs."""
