"""Waiting for a change, and waking the requests that wait."""
