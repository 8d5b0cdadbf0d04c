"""The tables of access control, and what reads and writes them."""
