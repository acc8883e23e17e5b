"""The dashboard: a static page over the query API, without a build step."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""Folder of the page: `index.html` is served at `/`, every file under `/static/`."""
