"""The memory that requests may hold."""
