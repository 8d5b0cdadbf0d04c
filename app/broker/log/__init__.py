"""Topics, appends, fetches and streams."""
