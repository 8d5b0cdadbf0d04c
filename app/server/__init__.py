"""The HTTP server that `millrace serve` runs: uvicorn with limits of its own."""
