"""Say what to change in a request that the server does not understand."""
