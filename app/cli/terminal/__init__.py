"""What a command reads from and writes to the terminal, and how it fails."""
