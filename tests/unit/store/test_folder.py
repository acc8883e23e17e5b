"""The contract of a store on a folder."""

import resource
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from streamscalar.errors import Kind, WorkFailed
from streamscalar.testing import StoreContract, sample_run
from streamscalar.testing.logged_contract import values
from streamscalar.testing.medium_contract import Root


class TestFolder(StoreContract):
    """A store on the local disk."""

    _numbers = count()

    def make_root(self, tmp_path: Path) -> Path:
        return tmp_path / f"store-{next(self._numbers)}"

    def test_values_that_found_no_space_are_stored_later(self, root: Root) -> None:
        store = self.store(root, sample_run.trajectory(3, (3, 13)))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        with store.weights_writer("r", "none") as writer:
            writer.log(0, values(0, 20))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            try:
                with pytest.raises(WorkFailed) as caught:
                    writer.log(20, values(20, 90))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert caught.value.kind is Kind.STORE_FULL
            assert writer.n_logged == len(store.reader("r").logged.entries()) == 20
            writer.log(20, values(20, 30))
        with store.weights_writer("r", "none") as writer:
            assert writer.n_logged == 30
            writer.finish()
        np.testing.assert_array_equal(store.reader("r").logged.entries().values, np.sqrt(np.arange(30)))
