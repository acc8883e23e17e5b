"""The contract of a store on a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamscalar.testing import StoreContract
from tests.bucket import Bucket, running


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with running() as service:
        yield service


class TestBucket(StoreContract):
    """A store in a bucket of a local S3 service."""

    shows_log = False

    @pytest.fixture(autouse=True)
    def use(self, service: Bucket) -> None:
        self.service = service

    def make_root(self, tmp_path: Path) -> str:
        return self.service.make()
