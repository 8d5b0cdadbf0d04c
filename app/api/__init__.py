"""The HTTP API: request and response structs, operations, problems."""
