"""The command line."""

from streamscalar.cli.commands import main

__all__ = ["main"]
