"""Records, topics, appends, offsets and cursors."""
