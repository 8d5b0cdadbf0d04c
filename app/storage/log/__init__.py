"""Topics, partitions and records."""
