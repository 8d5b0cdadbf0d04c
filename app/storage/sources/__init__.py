"""Sources: their definitions and refusals."""
