"""Commands that run, migrate, describe or probe a server."""
