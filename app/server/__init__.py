"""The HTTP server of `millrace serve`: uvicorn with limits for each connection."""
