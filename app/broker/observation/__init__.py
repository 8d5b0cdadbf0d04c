"""What the metrics read from the database."""
