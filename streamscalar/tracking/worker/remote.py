"""A sink on a Ray cluster: an actor there stores and embeds the rows."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamscalar.errors import Kind, WorkFailed
from streamscalar.store.logged.log import Series
from streamscalar.tracking.channel.messages import Facts, Open, Opened
from streamscalar.tracking.worker.embedding_thread import Report
from streamscalar.tracking.worker.sink import RowSink, StoreSink


def connect(address: str, report: Report) -> RowSink:
    """Return a sink whose rows are stored and embedded on the cluster at `address`, in its file system.

    Raises
    ------
    BadCall
        The cluster does not answer.
    """
    return _RemoteSink(address, report)


class _Hosted:
    """A sink in its actor; its problems are returned with the results."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str]] = []
        self._sink = StoreSink(lambda kind, text: self._said.append((kind, text)))

    def call(self, name: str, *arguments: Any) -> tuple[Any, list[tuple[str, str]]]:
        """Call a method of the sink; return its result and the problems that it reported."""
        answer = getattr(self._sink, name)(*arguments)
        said, self._said = self._said, []
        return answer, said


class _RemoteSink:
    """See `RowSink`; an actor that died is recreated, at most once per call, and resumes the run from the store."""

    def __init__(self, address: str, report: Report) -> None:
        self._address = address
        self._report = report
        self._request: Open | None = None
        self._runs: list[str] = []
        self._make()

    def open(self, request: Open) -> Opened:
        """See `RowSink.open`."""
        opened: Opened = self._call("open", request)
        self._request = replace(request, attach=opened.run_id)
        return opened

    def begin(self, metrics: tuple[str, ...], fork_step: int | None) -> str:
        """See `RowSink.begin`."""
        run_id: str = self._call("begin", metrics, fork_step)
        if self._request is not None:
            self._request = replace(self._request, attach=run_id)
        self._runs.append(run_id)
        return run_id

    def put(self, step: int, weights: NDArray[Any], metrics: NDArray[np.float64], facts: Facts) -> None:
        """See `RowSink.put`."""
        self._call("put", step, weights, metrics, facts)

    def log(self, first: int, series: tuple[Series, ...], values: NDArray[Any]) -> None:
        """See `RowSink.log`."""
        self._call("log", first, series, values)

    def finish(self, facts: Facts) -> None:
        """See `RowSink.finish`."""
        self._call("finish", facts)

    def pause(self) -> list[str]:
        """See `RowSink.pause`."""
        runs: list[str] = self._call("pause")
        return runs

    def resume(self, runs: list[str]) -> None:
        """See `RowSink.resume`."""
        self._runs = runs
        self._call("resume", runs)

    def close(self, reason: str) -> None:
        """See `RowSink.close`."""
        self._call("close", reason)

    def _make(self) -> None:
        from streamscalar.runtime.ray.executor import hosted

        self._remote = hosted(_Hosted, self._address)

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            answer, said = self._remote("call", name, *arguments)
        except ConnectionError as error:
            if self._request is None:
                raise WorkFailed("address", "lost the actor on the cluster", str(error), kind=Kind.CLUSTER) from None
            self._make()
            self._remote("call", "open", self._request)
            self._remote("call", "resume", self._runs)
            answer, said = self._remote("call", name, *arguments)
        for kind, text in said:
            self._report(kind, text)
        return answer
