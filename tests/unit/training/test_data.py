"""Data sets, whole and broken."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_iris

from streamscalar.config.models import TaskSection
from streamscalar.errors import BadCall
from streamscalar.training.data import load_data


def write_idx(path: Path, array: NDArray[Any]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    body = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)


def write_split(folder: Path, split: str, n: int, suffix: str = "") -> None:
    rng = np.random.default_rng(n)
    write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (n, 2, 3)))
    write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", np.arange(n) % 4)


def test_digits_are_the_1797_real_ones() -> None:
    data = load_data(TaskSection(name="digits", n_train=1000))
    assert data.x_train.shape == (1000, 64)
    assert data.x_test.shape == (360, 64)
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    assert sorted(set(data.y_test)) == list(range(10))


def test_bundled_sets_are_those_of_scikit_learn() -> None:
    for name, load, scale in (("digits", load_digits, 16.0), ("iris", load_iris, 1.0)):
        x, y = load(return_X_y=True)
        data = load_data(TaskSection(name=name))
        for rows, expected in (([data.x_train, data.x_test], x / scale), ([data.y_train, data.y_test], y)):
            order = np.argsort(_order(name, len(x)))
            np.testing.assert_array_equal(np.concatenate(rows)[order], expected)


def _order(name: str, n: int) -> NDArray[np.int64]:
    """Return the samples in the order training, test."""
    test = np.arange(n) >= n - 360 if name == "digits" else np.arange(n) % 5 == 4
    return np.concatenate([np.flatnonzero(~test), np.flatnonzero(test)])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folders_with_both_splits(tmp_path: Path, suffix: str) -> None:
    write_split(tmp_path, "train", 12, suffix)
    write_split(tmp_path, "t10k", 5, suffix)
    data = load_data(TaskSection(name="idx", path=str(tmp_path), n_train=10))
    assert data.x_train.shape == (10, 6)
    assert data.x_test.shape == (5, 6)
    assert data.n_classes == 4
    assert data.x_train.max() <= 1


def test_a_lone_test_set_is_split(tmp_path: Path) -> None:
    write_split(tmp_path, "t10k", 8003)
    data = load_data(TaskSection(name="idx", path=str(tmp_path)))
    assert (len(data.x_train), len(data.x_test)) == (8000, 3)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadCall, match=r"t10k-images-idx3-ubyte.*https://"):
        load_data(TaskSection(name="idx", path=str(tmp_path)))
    with pytest.raises(BadCall, match="does not exist"):
        load_data(TaskSection(name="idx", path=str(tmp_path / "nowhere")))


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    write_split(tmp_path, "t10k", 8003, ".gz")
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(BadCall, match=r"t10k-images-idx3-ubyte.gz: must be a complete, readable file"):
        load_data(TaskSection(name="idx", path=str(tmp_path)))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((3, 2)))
    with pytest.raises(BadCall, match="3 axes"):
        load_data(TaskSection(name="idx", path=str(tmp_path)))


def test_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(BadCall, match=r"task.n_train: must be at most 1437.*got 5000"):
        load_data(TaskSection(name="digits", n_train=5000))
