"""Hashes of tensors, the streams of ranks, and what their comparison finds."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._C._distributed_c10d import HashStore

from streamscalar.analysis.rank_alerts import ranks_drifted
from streamscalar.config.models import AlertsSection
from streamscalar.store.rank_comparison import RankComparison, RankState
from streamscalar.store.rank_streams import Description, HashedStep, RankWriter, Role, SessionReader
from streamscalar.tracking.notices import Notices, TrackingWarning
from streamscalar.tracking.training.ranks import meeting, writing
from streamscalar.tracking.training.ranks.compared import Compared
from streamscalar.tracking.training.ranks.hashes import CHUNK, hash_tensors
from streamscalar.tracking.training.ranks.meeting import Meeting, Place
from streamscalar.tracking.training.ranks.recording import RankHashes

TENSORS: dict[str, Role] = {"weight": "parameter", "mask": "buffer", "mean": "overwritten"}


def flipped(tensor: torch.Tensor, word: int, bit: int) -> torch.Tensor:
    """Return a copy with one bit of one 32-bit word changed."""
    copy = tensor.clone()
    copy.view(torch.int32).view(-1)[word] ^= 1 << bit if bit < 31 else -(1 << 31)
    return copy


def test_any_bit_anywhere_changes_the_hash() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(3 * CHUNK + 77, generator=generator)
    places = [0, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 3, 3 * CHUNK, 3 * CHUNK + 76]
    others = [flipped(tensor, place, bit) for place in places for bit in (0, 22, 30, 31)]
    hashes = hash_tensors([tensor, tensor.clone(), *others]).tolist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 1 + len(others)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8, torch.complex64]
)
def test_tensors_of_any_type_and_layout_are_hashed_by_their_bytes(dtype: torch.dtype) -> None:
    tensor = (torch.arange(60) % 7).reshape(3, 4, 5).to(dtype)
    other = tensor.clone()
    other[1, 2, 3] = not other[1, 2, 3] if dtype is torch.bool else other[1, 2, 3] + 1
    first, again, permuted, different = hash_tensors(
        [tensor, tensor.clone(), tensor.mT.contiguous().mT, other]
    ).tolist()
    assert first == again == permuted != different
    assert hash_tensors([torch.zeros(()), torch.empty(0)]).shape == (2,)


def test_words_that_change_places_change_the_hash() -> None:
    tensor = torch.arange(2 * CHUNK, dtype=torch.float32)
    others = []
    for here, there in ((3, 8), (3, CHUNK + 3), (1, CHUNK)):
        others.append(tensor.clone())
        others[-1][[here, there]] = tensor[[there, here]]
    negated = tensor.clone()
    negated[[8, 12]] *= -1
    assert len(set(hash_tensors([tensor, *others, negated, tensor.flip(0)]).tolist())) == 6


def test_statistics_of_normalisation_are_not_compared() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.register_buffer("mask", torch.ones(2))
    tensors = Compared.of(model).tensors()
    assert {name: role for name, (role, _) in tensors.items()} == {
        **dict.fromkeys(["0.weight", "0.bias", "1.weight", "1.bias"], "parameter"),
        "mask": "buffer",
    }


@pytest.fixture
def alone() -> Iterator[None]:
    """Make this process the only one of a job."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_rank_that_does_not_see_the_folder_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FIND_S", 0.3)
    place = Place(tmp_path / "on another host", 0)
    ranks = RankHashes(nn.Linear(2, 2), lambda: place, 1, 0.02, Notices())
    ranks.step(1, is_counted=True)
    with pytest.warns(TrackingWarning, match=f"comparison of rank 0 is not written: .* does not see {place.folder}"):
        ranks.close()
    assert ranks.step(2, is_counted=True) == 0.0


@pytest.mark.usefixtures("alone")
def test_ranks_choose_the_same_steps_by_their_numbers(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    chosen: list[list[int]] = []
    for every, first in ((10, 1), (20, 1), (10, 1001)):
        folder = tmp_path / str(len(chosen))
        folder.mkdir()
        ranks = RankHashes(model, partial(Place, folder, 0), every, 0.02, Notices())
        for number in range(first, first + 60, 3):
            ranks.step(number, is_counted=False)
        ranks.close()
        chosen.append([one.step - first for one in SessionReader(folder).read()])
    assert chosen[0] == chosen[2] == [0, 12, 21, 30, 42, 51]
    assert set(chosen[1]) < set(chosen[0])


@pytest.mark.usefixtures("alone")
def test_a_meeting_is_found_by_the_ranks_of_its_job_alone(tmp_path: Path) -> None:
    first, second = Meeting("hashes", "g", "a"), Meeting("hashes", "g", "a")
    place = Place(tmp_path / "a", 7)
    first.announce(place)
    assert second.find() is None
    # Another rank counts its own calls.
    meeting._n_calls["hashes/g/a"] -= 2
    assert Meeting("hashes", "g", "a").find() == place
    assert Meeting("hashes", "h", "a").find() is None


def step(rank: int, number: int, hashes: list[int], n_ranks: int = 2, call: int | None = None) -> HashedStep:
    about = Description(rank, f"host{rank}", tuple(range(n_ranks)), TENSORS)
    return HashedStep(about, number if call is None else call, number, float(number), np.array(hashes))


def test_a_stream_ends_at_its_first_damaged_frame(tmp_path: Path) -> None:
    writer = RankWriter(tmp_path, 3)
    writer.describe(Description(3, "a", (0, 3), TENSORS))
    reader = SessionReader(tmp_path)
    for number in range(3):
        writer.append(0, number, np.array([number, -1, 2**62]))
        assert [(one.step, one.hashes.tolist()) for one in reader.read()] == [(number, [number, -1, 2**62])]
    writer.close()
    with pytest.raises(FileExistsError):
        RankWriter(tmp_path, 3)
    path = tmp_path / "000003.hashes"
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-1])
    assert [one.step for one in SessionReader(tmp_path).read()] == [0, 1]
    data[-70] ^= 1
    path.write_bytes(data)
    (first,) = SessionReader(tmp_path).read()
    assert first.about == Description(3, "a", (0, 3), TENSORS)


def test_the_first_difference_of_a_rank_is_named() -> None:
    comparison = RankComparison()
    for number in range(5):
        comparison.update([step(0, number, [number, 7, 0])])
        comparison.update([step(1, number, [number + (number >= 3), 7 + (number >= 4), 0])])
    (drift,) = comparison.drifts
    assert (drift.rank, drift.reference, drift.step, drift.equal_at) == (1, 0, 3, 2)
    assert drift.tensors == {"weight": "parameter"}
    assert str(drift) == (
        "Rank 1 differs from rank 0 at step 3 in 1 of 3 tensors: parameter weight; at step 2 they were equal"
    )
    assert comparison.states("a") == [
        RankState("a", 0, "host0", 5, 5, 4, None),
        RankState("a", 1, "host1", 5, 5, 4, drift),
    ]


def test_of_three_ranks_the_odd_one_is_named_whichever_it_is() -> None:
    for odd in range(3):
        comparison = RankComparison()
        comparison.update([step(rank, 1, [rank == odd, 0, 0], 3) for rank in range(3)])
        (drift,) = comparison.drifts
        assert (drift.rank, drift.reference) == (odd, 1 if odd == 0 else 0)


def test_an_overwritten_buffer_is_compared_while_it_stays_the_same() -> None:
    clean = RankComparison()
    stuck = RankComparison()
    for number in range(4):
        # A statistic of the batches of each rank, and then a buffer that no forward pass brings back.
        clean.update([step(rank, number, [0, 0, 10 * number + rank]) for rank in range(2)])
        stuck.update([step(rank, number, [0, 0, rank]) for rank in range(2)])
    assert clean.drifts == []
    (drift,) = stuck.drifts
    assert (drift.step, drift.tensors) == (1, {"mean": "buffer"})


def test_steps_are_compared_when_all_ranks_have_written_them() -> None:
    comparison = RankComparison()
    comparison.update([step(0, number, [number, 0, 0]) for number in range(10)])
    assert comparison.states("a")[0].n_compared == 0
    # It compares every second step, and goes back once.
    comparison.update([step(1, number, [number, 0, 0]) for number in range(0, 10, 2)])
    comparison.update([step(rank, 4, [rank, 0, 0], call=10) for rank in range(2)])
    # What one rank calls by the same number in another call is another update.
    comparison.update([step(rank, 20, [0, rank, 0], call=20 + rank) for rank in range(2)], is_over=True)
    assert [state.n_compared for state in comparison.states("a")] == [6, 6]
    assert [(drift.rank, drift.step) for drift in comparison.drifts] == [(1, 4)]


def test_a_missing_rank_does_not_hold_the_others_up_for_long() -> None:
    live = RankComparison()
    for number in range(30):
        live.update([step(rank, number, [rank * (number > 2), 0, 0], 3) for rank in range(2)])
    assert [drift.step for drift in live.drifts] == [3]
    over = RankComparison()
    over.update([step(rank, 1, [rank, 0, 0], 3) for rank in range(2)], is_over=True)
    assert [drift.step for drift in over.drifts] == [1]


def test_one_alert_tells_of_all_ranks_that_drifted_first() -> None:
    comparison = RankComparison()
    comparison.update([step(rank, 1, [0, 0, 0], 5) for rank in range(5)])
    comparison.update([step(rank, 9, [0, int(rank in {2, 4}), 0], 5) for rank in range(5)])
    (alert,) = ranks_drifted("a", comparison.drifts)
    assert (alert.id, alert.level, alert.step, alert.row) == ("a.ranks_drifted.9", "error", 9, None)
    assert alert.message == (
        "Rank 2 differs from rank 0 at step 9 in 1 of 3 tensors: buffer mask; at step 1 they were equal. "
        "So does 1 more rank."
    )
    assert alert.evidence["ranks"] == [2, 4]
    assert alert.evidence["layer"] == "mask"
    assert not list(ranks_drifted("a", comparison.drifts, AlertsSection(ranks_drifted="none")))
