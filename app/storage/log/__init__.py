"""Topics, partitions and records in the database."""
