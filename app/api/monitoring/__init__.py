"""What operators ask a node: health, readiness, metrics."""
