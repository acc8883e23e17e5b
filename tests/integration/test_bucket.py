"""The contract of a store on a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamscalar.testing import StoreContract
from tests.bucket import Bucket, running


class TestBucket(StoreContract):
    """A store in a bucket of a local S3 service."""

    shows_log = False

    @pytest.fixture(autouse=True, scope="class")
    def service(self, request: pytest.FixtureRequest) -> Iterator[Bucket]:
        with running() as service:
            request.cls.bucket = service
            yield service

    bucket: Bucket

    def make_root(self, tmp_path: Path) -> str:
        return self.bucket.make()
