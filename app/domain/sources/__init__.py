"""Sources: deliveries of other services' webhooks, and the verification of their signatures. Pure."""
