"""Queues: deliveries, archiving and redrive."""
