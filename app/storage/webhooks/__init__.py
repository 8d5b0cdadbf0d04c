"""Webhooks: their definitions, queues, retries, attempts and replays, and the leases of nodes."""
