"""Checks of the whole database for inconsistencies, by a reader that changes nothing."""
