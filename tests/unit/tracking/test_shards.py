"""Rows that are put together from the parts of ranks, and models of which no part is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.fsdp import FullyShardedDataParallel

from streamscalar.errors import BadCall, WorkFailed
from streamscalar.tracking import track
from streamscalar.tracking.channel import shards
from streamscalar.tracking.channel.shards import RowCompletion, Shards, write_part, write_positions

POSITIONS = [[0, 1, 5], [2, 3], [], [4]]
"""Positions of each rank in a row of six."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which every rank has written its positions."""
    for rank, positions in enumerate(POSITIONS):
        write_positions(tmp_path, rank, np.array(positions, np.int64))
    return tmp_path


def row() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return a row with the part of rank 0, and old values elsewhere."""
    return np.array([[10, 11, -1, -1, -1, 15]], np.float32)


def test_a_row_is_completed_by_the_parts_of_its_call(folder: Path) -> None:
    completion = RowCompletion(Shards(str(folder), 4), 6)
    for call in (1, 3):
        write_part(folder, 1, call, np.array([100 * call + 2, 100 * call + 3], np.float32))
        write_part(folder, 3, call, np.array([100 * call + 4], np.float32))
    for call in (1, 3):
        complete = row()
        completion.complete(complete, call)
        assert complete.tolist() == [[10, 11, 100 * call + 2, 100 * call + 3, 100 * call + 4, 15]]
        # A new worker may have to store the same row again.
        completion.complete(complete, call)
        completion.forget(call)
    assert not list(folder.glob("*-*.npy"))
    completion.close()
    assert not folder.exists()


def test_a_part_that_does_not_come_is_waited_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_S", 0.05)
    completion = RowCompletion(Shards(str(folder), 4), 6)
    write_part(folder, 1, 1, np.zeros(2, np.float32))
    with pytest.raises(WorkFailed, match="rank 3 has not written its part"):
        completion.complete(row(), 1)
    monkeypatch.setattr(shards, "ROW_S", 1e9)
    with pytest.raises(WorkFailed, match="rank 1 has not written its part"):
        completion.complete(row(), 2)
    for rank, n in ((1, 2), (3, 1)):
        write_part(folder, rank, 3, np.ones(n, np.float32))
    completion.complete(row(), 3)


@pytest.mark.parametrize("positions", [[], [4, 5]])
def test_parts_that_are_not_the_whole_are_refused(folder: Path, positions: list[int]) -> None:
    write_positions(folder, 3, np.array(positions, np.int64))
    with pytest.raises(WorkFailed, match="has 1 parameters that no rank holds, or more than one"):
        RowCompletion(Shards(str(folder), 4), 6).complete(row(), 1)


@pytest.fixture
def alone() -> Iterator[None]:
    """Make this process the only one of a job."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
def test_fsdp_1_and_zero_3_are_refused_with_what_to_do(tmp_path: Path) -> None:
    wrapped = FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"))
    with pytest.raises(BadCall, match=r"FullyShardedDataParallel\. Use torch\.distributed\.fsdp\.fully_shard"):
        track(wrapped, store=tmp_path)
    partitioned = nn.Linear(2, 2)
    partitioned.weight.ds_id = 0  # type: ignore[attr-defined]  # as DeepSpeed marks its parameters
    with pytest.raises(BadCall, match=r"ZeRO-3\)\. Use ZeRO stage 1 or 2"):
        track(partitioned, store=tmp_path)
