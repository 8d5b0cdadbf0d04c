"""Requests to other servers: addresses and URLs that may be used. Pure."""
