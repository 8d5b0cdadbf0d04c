"""HTTP: wire structs, routes, problems."""
