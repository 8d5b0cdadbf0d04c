"""Commands on consumer groups, and the group consumer behind `consume --group`."""
