"""Hand out records of a queue and take their acknowledgements, many requests in one transaction."""
