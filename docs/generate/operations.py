"""The pages of `deploy/`, which lie where the manifests are."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SITE = "operations"

_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def operations_files() -> dict[str, Path]:
    """Return the pages of `deploy/` and the files that they link to, by their place in the site.

    The tree stays as it is, so links between pages hold; MkDocs checks them.

    Raises
    ------
    ValueError
        A page links to something outside `deploy/`, which the site does not hold.
    """
    pages = sorted(DEPLOY.rglob("*.md"))
    linked = {target for page in pages for target in _targets(page)}
    return {f"{SITE}/{path.relative_to(DEPLOY).as_posix()}": path for path in sorted({*pages, *linked})}


def _targets(page: Path) -> Iterator[Path]:
    for link in _LINK.findall(page.read_text("utf-8")):
        target = (page.parent / link).resolve()
        if not target.is_relative_to(DEPLOY):
            raise ValueError(f"{page.relative_to(ROOT)} links to {link}, which lies outside deploy/")
        if target.is_file():
            yield target
