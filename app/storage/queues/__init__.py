"""Queues, share partitions, delayed and archived records."""
