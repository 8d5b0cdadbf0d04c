"""What a node counts: values that cost an addition to change, and are read when metrics are scraped."""
