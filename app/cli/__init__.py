"""The command line: `serve`, `migrate` and `openapi` build the server; everything else speaks HTTP to one."""

from __future__ import annotations


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    from app.cli.program import run

    run()
