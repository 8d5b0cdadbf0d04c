"""Webhooks: configuration, filter, message, signature, retries and breaker. Pure."""
