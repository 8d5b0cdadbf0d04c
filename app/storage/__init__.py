"""The log in a SQL database: synchronous functions `f(tx, ...)`; the only package that contains SQL."""
