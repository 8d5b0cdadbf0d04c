"""`python -m app.cli` is `millrace`."""

from app.cli import main

main()
