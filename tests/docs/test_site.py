"""The site is built strictly, its links hold, and it loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "embed": "src",
    "use": "href",
}
"""Attribute that a browser loads by itself, by element; of `link` that depends on `rel`."""
LINKS_NOT_LOADED = {"canonical", "next", "prev", "alternate"}


@dataclass
class Page(HTMLParser):
    """What one HTML page loads, what it links to, and what can be linked to."""

    loaded: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what one element names."""
        values = {name: value for name, value in attributes if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])
        elif tag == "link" and not LINKS_NOT_LOADED & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        elif LOADED.get(tag, "") in values:
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; every warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    # Not with --quiet, which hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Return every page of the site but the one for what is not found, whose links are absolute."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":
            found[path] = Page()
            found[path].feed(path.read_text("utf-8"))
    return found


def test_each_section_has_its_pages(site: Path) -> None:
    for page in (
        *("start/install", "start/first-result", "start/track", "start/browser"),
        *(f"concepts/{name}" for name in ("trajectory", "replica", "scalar", "exponent", "regime")),
        *(f"reference/{name}" for name in ("cli", "config", "http", "python", "store")),
        *("operations", "operations/kubernetes", "operations/faults", "benchmarks"),
    ):
        assert (site / page / "index.html").is_file(), page
    assert len(list((site / "how-to").iterdir())) >= 10


def test_every_page_of_deploy_and_every_file_that_it_links_to_is_there(site: Path) -> None:
    for path in (ROOT / "deploy").rglob("*.md"):
        parts = path.relative_to(ROOT / "deploy").with_suffix("").parts
        place = parts[:-1] if parts[-1] == "README" else parts
        assert site.joinpath("operations", *place, "index.html").is_file(), path
    assert (site / "operations/ray/cluster.yaml").read_bytes() == (ROOT / "deploy/ray/cluster.yaml").read_bytes()


def _external(addresses: Iterator[str]) -> list[str]:
    return [address for address in addresses if urlsplit(address).netloc]


def test_pages_and_styles_load_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert page.loaded, path
        assert not _external(iter(page.loaded)), path
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        text = path.read_text("utf-8")
        addresses = re.findall(r"(?:url\(|@import\s+|xlink:href=|\bsrc=)[\"']?([^\"')\s;]+)", text)
        assert not _external(address for address in addresses if not address.startswith("data:")), path


def test_every_link_within_the_site_holds(pages: dict[Path, Page]) -> None:
    n_checked = 0
    for path, page in pages.items():
        for address in page.linked:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path}: {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids | {"__skip"}, f"{path}: {address}"
            n_checked += 1
    assert n_checked > 1000
