"""Commands for sources."""
