"""The database itself: engines, dialects, transactions, schema, clock."""
