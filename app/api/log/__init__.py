"""Routes of topics and records."""
