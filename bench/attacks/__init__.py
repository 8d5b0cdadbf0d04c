"""Attacks on the memory of a server, beside a client that must not notice them."""
