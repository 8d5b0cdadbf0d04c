"""PostgreSQL: the dialect, statements in pipelines, and notices between nodes."""
