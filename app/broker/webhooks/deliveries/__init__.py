"""The delivery of records: the worker of a webhook, and what it does in each step."""
