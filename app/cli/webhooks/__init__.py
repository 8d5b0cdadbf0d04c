"""Commands for webhooks, and a receiver to try them with."""
