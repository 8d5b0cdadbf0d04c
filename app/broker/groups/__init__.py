"""Consumer groups: membership, polls and committed offsets."""
