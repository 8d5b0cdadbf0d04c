"""Loops started by the lifespan; each step is one small function."""
