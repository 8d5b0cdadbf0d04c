"""Send records to a webhook again, or pass over what waits for it."""
