"""What the service does: transaction scripts, waiting and waking."""
