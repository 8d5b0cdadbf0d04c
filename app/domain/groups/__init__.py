"""Consumer groups: membership, assignment, offset reset."""
