"""HTTP for all operations: calls, routes, bodies, problems."""
