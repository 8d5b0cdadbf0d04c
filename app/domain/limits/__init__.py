"""Limits of principals and of the installation."""
