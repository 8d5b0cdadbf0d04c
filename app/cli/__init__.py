"""The command line: `serve`, `migrate` and `openapi` build the server; all other commands are HTTP clients."""

from __future__ import annotations


def main() -> None:
    """Run the command in `sys.argv` and exit with its code."""
    from app.cli.program import run

    run()
