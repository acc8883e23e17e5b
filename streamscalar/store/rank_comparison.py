"""Finds ranks of a distributed training whose parameters or buffers are no longer those of the others.

Every rank writes hashes of its tensors (see `rank_streams`); equal hashes mean equal bits.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.store.rank_streams import HashedStep, Role, SessionReader, sessions
from streamscalar.store.schema import RunFiles

LATE_STEPS = 16
"""Number of later steps after which a step is compared without the ranks that have not written it."""

NAMED = 3
"""Number of tensors that a message names."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The first difference of one rank from the others.

    Attributes
    ----------
    rank, reference
        The rank that differs, and the lowest of those that most ranks agree with. Of two ranks that differ, it is
        unknown which one changed; the higher one is named.
    step, equal_at
        Step at which they differ, and the last compared step before it at which they did not; `None` if there is none.
    tensors
        What differs: the role of each tensor (`parameter` or `buffer`), by its name.
    n_tensors
        Number of tensors that were compared.
    at
        Unix time in seconds when the rank wrote its hashes.
    """

    rank: int
    reference: int
    step: int
    equal_at: int | None
    tensors: Mapping[str, str]
    n_tensors: int
    at: float

    def __str__(self) -> str:
        """Return one sentence."""
        names = list(self.tensors)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        kind = "parameter" if "parameter" in self.tensors.values() else "buffer"
        since = "" if self.equal_at is None else f"; at step {self.equal_at} they were equal"
        return (
            f"Rank {self.rank} differs from rank {self.reference} at step {self.step} in {len(names)} of "
            f"{self.n_tensors} tensors: {kind} {', '.join(names[:NAMED])}{more}{since}"
        )


@dataclass(frozen=True, slots=True)
class RankState:
    """What is known of one rank.

    Attributes
    ----------
    session
        Start of the job that the rank belonged to; names of later ones sort higher.
    rank, host
        The rank, and the name of its machine.
    n_written, n_compared
        Number of steps that it has written, and of those at which it was compared with another rank.
    last_step
        Newest of them; `None` if there is none.
    drift
        Its first difference; `None` if it never differed.
    """

    session: str
    rank: int
    host: str
    n_written: int
    n_compared: int
    last_step: int | None
    drift: Drift | None


class RankComparison:
    """Compares the streams of one session while they grow.

    Memory is one hash per tensor and rank for each step that some rank has not written yet.

    Attributes
    ----------
    drifts : list of Drift
        First difference of each rank that differed, in the order of the steps.
    """

    def __init__(self) -> None:
        self.drifts: list[Drift] = []
        self._drifted: set[int] = set()
        self._waiting: dict[tuple[tuple[int, ...], int, int], dict[int, HashedStep]] = {}
        self._newest: dict[int, HashedStep] = {}
        self._same: dict[int, dict[tuple[int, int], set[str]]] = {}
        self._equal_at: dict[int, int] = {}
        self._n_written: Counter[int] = Counter()
        self._n_compared: Counter[int] = Counter()

    def update(self, steps: Iterable[HashedStep], *, is_over: bool = False) -> None:
        """Take the new steps of the ranks, those of one rank in order; with `is_over`, no rank writes any more."""
        for one in steps:
            rank = one.about.rank
            if len(one.about.group) > 1:
                self._waiting.setdefault((one.about.group, one.call, one.step), {})[rank] = one
            self._same.setdefault(rank, {})[one.call, one.step] = _unchanged(self._newest.get(rank), one)
            self._newest[rank] = one
            self._n_written[rank] += 1
        n_later = Counter(group for group, _, _ in self._waiting)
        for key in sorted(self._waiting, key=lambda key: key[1:]):
            group, call, step = key
            there = self._waiting[key]
            n_later[group] -= 1
            if len(there) == len(group) or n_later[group] >= LATE_STEPS or is_over:
                self._compare(call, step, [there[rank] for rank in sorted(there)])
                del self._waiting[key]
                for rank in there:
                    self._same[rank].pop((call, step), None)

    def states(self, session: str) -> list[RankState]:
        """Return what is known of each rank that has written, by rank."""
        first = {drift.rank: drift for drift in reversed(self.drifts)}
        return [
            RankState(
                session,
                rank,
                self._newest[rank].about.host,
                self._n_written[rank],
                self._n_compared[rank],
                self._newest[rank].step if self._n_compared[rank] else None,
                first.get(rank),
            )
            for rank in sorted(self._newest)
        ]

    def _compare(self, call: int, step: int, there: Sequence[HashedStep]) -> None:
        """Compare the ranks that have written a step."""
        if len(there) < 2:
            return
        names = _common(there)
        table = np.stack([_hashes(one, names) for one in there])
        different = np.flatnonzero((table != table[0]).any(axis=0))
        found: dict[int, dict[str, Role]] = {}
        references: dict[int, int] = {}
        for index in different.tolist():
            role = there[0].about.tensors[names[index]]
            is_still = all(names[index] in self._same[one.about.rank].get((call, step), set()) for one in there)
            if role == "overwritten" and not is_still:
                continue
            values = table[:, index].tolist()
            # The first of equally frequent values is that of the lowest rank.
            usual = Counter(values).most_common(1)[0][0]
            for one, value in zip(there, values, strict=True):
                if value != usual:
                    found.setdefault(one.about.rank, {})[names[index]] = role
                    references.setdefault(one.about.rank, there[values.index(usual)].about.rank)
        for one in there:
            rank = one.about.rank
            self._n_compared[rank] += 1
            if rank not in found:
                self._equal_at[rank] = step
            elif rank not in self._drifted:
                self._drifted.add(rank)
                tensors = {name: "parameter" if role == "parameter" else "buffer" for name, role in found[rank].items()}
                drift = Drift(rank, references[rank], step, self._equal_at.get(rank), tensors, len(names), one.at)
                self.drifts.append(drift)


class RankWatch:
    """Compares the ranks of a run, and of the runs that it was forked from, while they write.

    A job whose training goes back goes on in a child run, and its ranks write where it began.

    Parameters
    ----------
    run
        The run.
    known
        Sessions to leave out.
    """

    def __init__(self, run: RunFiles[Any], known: Iterable[str] = ()) -> None:
        self._folders = list(_lineage(run))[::-1]
        self._known = frozenset(known)
        self._sessions: dict[str, tuple[SessionReader, RankComparison]] = {}

    def sessions(self) -> list[str]:
        """Return the names of the sessions that are there."""
        return [session.name for folder in self._folders for session in sessions(folder)]

    def update(self, *, is_over: bool = False) -> None:
        """Read and compare what is new; with `is_over`, no rank writes any more."""
        for folder in self._folders:
            for session in sessions(folder):
                if session.name in self._known:
                    continue
                pair = self._sessions.setdefault(session.name, (SessionReader(session), RankComparison()))
                pair[1].update(pair[0].read(), is_over=is_over)

    def drifts(self) -> list[list[Drift]]:
        """Return the drifts of each session, in the order of the steps."""
        return [comparison.drifts for _, comparison in self._sessions.values()]

    def states(self) -> list[RankState]:
        """Return what is known of the ranks of each session."""
        pairs = self._sessions.items()
        return [state for session, (_, comparison) in pairs for state in comparison.states(session)]


def _lineage(run: RunFiles[Any]) -> Iterator[Path]:
    """Yield the folders of the ranks of a run and of its parents."""
    while (ranks := run.ranks) is not None:
        yield ranks
        parent = run.spec().parent
        if parent is None:
            return
        run = RunFiles(ranks.parents[1] / parent[0])


def _unchanged(before: HashedStep | None, now: HashedStep) -> set[str]:
    """Return the names of the overwritten buffers that are as they were at the compared step before."""
    names = [name for name, role in now.about.tensors.items() if role == "overwritten"]
    if before is None or not names:
        return set()
    old = dict(zip(before.about.tensors, before.hashes.tolist(), strict=True))
    new = dict(zip(now.about.tensors, now.hashes.tolist(), strict=True))
    return {name for name in names if old.get(name) == new[name]}


def _common(there: Sequence[HashedStep]) -> list[str]:
    """Return the names that all ranks have, in the order of the first one."""
    others = [one.about.tensors for one in there[1:]]
    return [name for name in there[0].about.tensors if all(name in tensors for tensors in others)]


def _hashes(one: HashedStep, names: Sequence[str]) -> NDArray[np.int64]:
    if list(one.about.tensors) == names:
        return one.hashes
    index = {name: at for at, name in enumerate(one.about.tensors)}
    return one.hashes[[index[name] for name in names]]
