"""Read, decompress and decode the bodies of requests."""
