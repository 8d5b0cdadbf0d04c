"""Queues: records in flight, deliveries, configuration."""
