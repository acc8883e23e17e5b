"""The command line."""

from streamscalar.cli.app import main

__all__ = ["main"]
