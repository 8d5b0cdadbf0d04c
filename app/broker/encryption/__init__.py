"""Encryption of secrets before they are stored."""
