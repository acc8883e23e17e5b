"""The contract of a store on a folder."""

from itertools import count
from pathlib import Path

from streamscalar.testing import StoreContract


class TestFolder(StoreContract):
    """A store on the local disk."""

    _numbers = count()

    def make_root(self, tmp_path: Path) -> Path:
        return tmp_path / f"store-{next(self._numbers)}"
