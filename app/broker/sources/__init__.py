"""Sources: take in the webhooks of other services."""
