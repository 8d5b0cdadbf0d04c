"""The database: engines, dialects, transactions, schema and clock."""
