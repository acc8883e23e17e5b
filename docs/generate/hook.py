"""MkDocs hook: adds the generated pages and those of `deploy/` to the site."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# MkDocs loads a hook by its path, and not as part of a package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.generate.cli import cli_page
from docs.generate.config import config_page
from docs.generate.http import http_page
from docs.generate.operations import operations_files
from docs.generate.python import python_page
from docs.generate.store import store_page

PAGES = {
    "reference/cli.md": cli_page,
    "reference/config.md": config_page,
    "reference/http.md": http_page,
    "reference/python.md": python_page,
    "reference/store.md": store_page,
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pages of `deploy/` with the files that they link to."""
    for name, generated in PAGES.items():
        files.append(File.generated(config, name, content=generated()))
    for name, path in operations_files().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
