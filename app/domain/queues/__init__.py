"""Queues: configuration, deliveries, and the state of share partitions and their records."""
