"""Data sets: scikit-learn's digits and Iris, and folders of IDX files such as MNIST."""

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from streamscalar.config.models import TaskSection
from streamscalar.errors import BadCall, Kind

IDX_SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
N_DIGITS_TEST = 360
IRIS_FOLDS = 5
"""Every fifth of the 150 samples, which are sorted by class, is a test sample; 40 of each class are for training."""
N_LONE_TRAIN = 8000

SizedT = TypeVar("SizedT", NDArray[np.float64], Tensor)

KNOWN_MD5: Mapping[str, str] = {
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "MNIST train-images-idx3-ubyte.gz",
    "d53e105ee54ea40749a09fcbcd1e9432": "MNIST train-labels-idx1-ubyte.gz",
    "9fb629c4189551a2d022fa330f9573f3": "MNIST t10k-images-idx3-ubyte.gz",
    "ec29112dd5afa0611ce80d1b7f02629c": "MNIST t10k-labels-idx1-ubyte.gz",
}


@dataclass(frozen=True, slots=True)
class Data:
    """Samples for classification.

    Attributes
    ----------
    x_train, x_test
        Inputs, float64, shape (samples, features): pixels in [0, 1]; Iris in centimetres, as arXiv 2404.05782 has it.
    y_train, y_test
        Class indices, int64, shape (samples,).
    n_classes
        Number of classes.
    source
        Where the samples come from, for provenance.
    """

    x_train: NDArray[np.float64]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float64]
    y_test: NDArray[np.int64]
    n_classes: int
    source: Mapping[str, Any]


def load_data(task: TaskSection) -> Data:
    """Return the data set of `task`, cut to `n_train` and `n_test`.

    Raises
    ------
    BadCall
        A file is missing, corrupt, or has fewer samples than requested.
    """
    match task.name:
        case "digits":
            data = _digits()
        case "iris":
            data = _iris()
        case _:
            data = _idx(Path(str(task.path)).expanduser())
    return Data(
        first_samples(data.x_train, task.n_train, "n_train"),
        data.y_train[: task.n_train],
        first_samples(data.x_test, task.n_test, "n_test"),
        data.y_test[: task.n_test],
        data.n_classes,
        data.source,
    )


def first_samples(samples: SizedT, n: int | None, field: str) -> SizedT:
    """Return the first `n` samples, or all if it is `None`; raises `BadCall` for `field` if there are fewer."""
    if n is not None and n > len(samples):
        raise BadCall(f"task.{field}", f"must be at most {len(samples)}, the number of samples", str(n), kind=Kind.DATA)
    return samples[:n]


def _digits() -> Data:
    table = np.loadtxt(_bundled_file("digits.csv.gz"), delimiter=",")
    x, y = table[:, :-1] / 16.0, table[:, -1].astype(np.int64)
    test = np.arange(len(x)) >= len(x) - N_DIGITS_TEST
    return Data(x[~test], y[~test], x[test], y[test], 10, _bundled("digits", x))


def _iris() -> Data:
    table = np.loadtxt(_bundled_file("iris.csv"), delimiter=",", skiprows=1)
    x, y = table[:, :-1].copy(), table[:, -1].astype(np.int64)
    test = np.arange(len(x)) % IRIS_FOLDS == IRIS_FOLDS - 1
    return Data(x[~test], y[~test], x[test], y[test], 3, _bundled("iris", x))


def _bundled_file(name: str) -> Path:
    """Return the path of a data set that scikit-learn brings; importing it would take 1.6 s of processor time."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / name if spec and spec.origin else Path(name)
    if not path.is_file():
        fix = "Run: pip install --force-reinstall scikit-learn"
        raise BadCall("task.name", "must be a data set that scikit-learn brings", f"no file {path}", fix, Kind.DATA)
    return path


def _bundled(name: str, x: NDArray[np.float64]) -> dict[str, Any]:
    return {"name": name, "md5": hashlib.md5(x.tobytes(), usedforsecurity=False).hexdigest()}


def _idx(folder: Path) -> Data:
    source: dict[str, Any] = {"name": "idx", "files": {}}
    if not folder.is_dir():
        raise _missing(folder, "that folder does not exist")
    x_test, y_test = _pair(folder, "t10k", source)
    if any(folder.glob("train-*")):
        x_train, y_train = _pair(folder, "train", source)
    elif len(x_test) > N_LONE_TRAIN:
        x_train, y_train = x_test[:N_LONE_TRAIN], y_test[:N_LONE_TRAIN]
        x_test, y_test = x_test[N_LONE_TRAIN:], y_test[N_LONE_TRAIN:]
    else:
        raise _missing(folder, f"no train-* files, and t10k-* holds only {len(x_test)} samples to split")
    return Data(x_train, y_train, x_test, y_test, int(max(y_train.max(), y_test.max())) + 1, source)


def _missing(where: Path, got: str) -> BadCall:
    return BadCall(
        f"task.path {where}",
        "must contain IDX files named t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (and train-*), plain or .gz",
        got,
        f"Those of MNIST are at {IDX_SOURCE}",
        Kind.DATA,
    )


def _pair(folder: Path, split: str, source: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    images = _read_idx(folder, f"{split}-images-idx3-ubyte", 3, source)
    labels = _read_idx(folder, f"{split}-labels-idx1-ubyte", 1, source)
    if len(images) != len(labels):
        raise BadCall(
            f"task.path {folder}",
            f"must contain as many {split} images as labels",
            f"{len(images)} and {len(labels)}",
            kind=Kind.DATA,
        )
    return images.reshape(len(images), -1) / 255.0, labels.astype(np.int64)


def _read_idx(folder: Path, name: str, n_axes: int, source: dict[str, Any]) -> NDArray[np.uint8]:
    """Return an IDX file: two zero bytes, type 8 (unsigned byte), number of axes, big-endian lengths, then the data."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise _missing(folder, f"no {name}[.gz]")
    try:
        raw = path.read_bytes()
        body = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise BadCall(
            str(path), "must be a complete, readable file", str(error), f"Download it again: {IDX_SOURCE}", Kind.DATA
        ) from None
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    source["files"][path.name] = {"md5": md5, "known_as": KNOWN_MD5.get(md5)}
    start = 4 + 4 * n_axes
    # A file that is cut off in its header has no lengths.
    lengths = tuple(int(n) for n in np.frombuffer(body[4:start], ">u4")) if len(body) >= start else ()
    if not lengths or body[:4] != bytes([0, 0, 8, n_axes]) or len(body) != start + int(np.prod(lengths)):
        raise BadCall(
            str(path),
            f"must be an IDX file of unsigned bytes with {n_axes} axes",
            f"{len(body)} bytes that start with {body[:4].hex(' ')}",
            f"Download it again: {IDX_SOURCE}",
            Kind.DATA,
        )
    return np.frombuffer(body, np.uint8, offset=start).reshape(lengths)
