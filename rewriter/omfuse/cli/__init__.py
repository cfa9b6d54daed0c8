"""The command line: one module a command; each parses, calls the library and prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``omfuse`` command."""
    from omfuse.cli.app import run

    run()
