"""HTTP itself: calls, routes, bodies, problems, documentation."""
