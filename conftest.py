"""What pytest collects outside of `tests/`: the examples in docstrings."""

from pathlib import Path

TESTS = Path(__file__).parent / "tests"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Import no module for examples that it does not have: some import a framework that takes seconds."""
    path = collection_path
    has_none = path.suffix == ".py" and not path.is_relative_to(TESTS) and ">>> " not in path.read_text("utf-8")
    return True if has_none else None
