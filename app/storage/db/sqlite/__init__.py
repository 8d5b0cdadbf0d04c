"""SQLite: the dialect, its files, and a ballast for a full disk."""
