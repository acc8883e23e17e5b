"""The modules of the dashboard: which may import which, and names that they take from the glossary."""

import re
from pathlib import Path

import pytest

from streamscalar.analysis.quantities import QUANTITIES
from streamscalar_services.dashboard import STATIC

MAY_IMPORT = {"core": {"core"}, "parts": {"core", "parts"}, "pages": {"core", "parts"}}
MODULES = sorted(STATIC.glob("*/*.js"))
KEY_LISTS = {"parts/estimates.js": "SHOWN", "pages/experiment.js": "EXPONENTS"}


def test_every_folder_of_modules_has_a_rule() -> None:
    assert {path.parent.name for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=[f"{path.parent.name}/{path.name}" for path in MODULES])
def test_pages_import_parts_and_core_and_core_imports_nothing_else(path: Path) -> None:
    text = path.read_text("utf-8")
    sources = re.findall(r'\bfrom "([^"]+)"', text)
    assert len(sources) == len(re.findall(r"^import\b", text, re.MULTILINE))
    folder = path.parent
    found = [(folder / source).resolve() for source in sources]
    assert all(source.is_file() for source in found)
    assert {source.parent.name for source in found} <= MAY_IMPORT[folder.name]


@pytest.mark.parametrize("name", list(KEY_LISTS))
def test_estimates_that_the_page_chooses_are_in_the_registry(name: str) -> None:
    (chosen,) = re.findall(rf"const {KEY_LISTS[name]} = \[([^\]]+)\]", (STATIC / name).read_text("utf-8"))
    keys = re.findall(r'"([a-z_0-9]+)"', chosen)
    assert len(keys) >= 4
    assert set(keys) <= set(QUANTITIES)
