"""Millrace: Kafka's event log over plain HTTP, on SQLite or PostgreSQL."""

__version__ = "0.1.0"
