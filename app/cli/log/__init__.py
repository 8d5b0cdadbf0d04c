"""Commands on topics and records."""
