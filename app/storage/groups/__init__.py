"""Consumer groups, members and committed offsets."""
