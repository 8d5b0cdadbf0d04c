"""Requests to other servers, guarded against addresses inside the network."""
