"""Commands for API keys and access control lists."""
