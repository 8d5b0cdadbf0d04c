"""Routes of queues: their definitions and their deliveries."""
