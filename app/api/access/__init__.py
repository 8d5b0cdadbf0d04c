"""Routes of access control."""
