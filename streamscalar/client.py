"""Asks a running service: a small client that returns pandas tables."""

import json
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from streamscalar.config.service import DEFAULT_URL, READ_TOKEN_FILE, token_folder
from streamscalar.errors import BadCall, Kind, StreamscalarError, WorkFailed

if TYPE_CHECKING:
    import pandas as pd

TIMEOUT_S = 30.0
PATIENCE_S = 20.0
"""Seconds in which a service that does not answer may come back."""
PAGE = 500
SILENCE_S = 45.0
"""Seconds without a sign of life after which an event stream counts as broken; the service sends one every 15."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `rows`, `runs`, `basis`, `alert` or `reset`, with its document."""

    id: str
    kind: str
    data: dict[str, Any]


class Client:
    """A connection to a service.

    A service that does not answer is asked again for `patience_s`; a service that restarted meanwhile is taken up
    where it was.

    Parameters
    ----------
    url
        Such as `http://127.0.0.1:8870`.
    token
        Read or admin token.
    patience_s
        Seconds in which to try again.
    """

    def __init__(self, url: str, token: str, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self._patience_s = patience_s
        headers = {"authorization": f"Bearer {token}"}
        # The proxies of the environment are for other hosts than a user's own service.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        self._close = weakref.finalize(self, self._http.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the document at a path, such as `/v1/experiments`; queries that are `None` are left out.

        Raises
        ------
        BadCall
            The service refuses the call, or does not answer.
        WorkFailed
            The service failed.
        """
        return self._call("GET", path, {name: value for name, value in query.items() if value is not None})

    def experiments(self) -> "pd.DataFrame":
        """Return one line per experiment."""
        return _frame(self.get("/v1/experiments")["items"])

    def runs(self, filter: str = "", sort: str = "-updated_at", limit: int | None = None) -> "pd.DataFrame":  # noqa: A002
        """Return one line per run that a filter lets through, such as `regime=chaotic learning_rate>2`."""
        return _frame(list(self.iterate_runs(filter, sort, limit)))

    def iterate_runs(self, filter: str = "", sort: str = "-updated_at", limit: int | None = None) -> Iterator[Any]:  # noqa: A002
        """Yield the documents of runs, page by page."""
        cursor: str | None = None
        left = limit
        while True:
            wanted = PAGE if left is None else min(PAGE, left)
            page = self.get("/v1/runs", filter=filter, sort=sort, cursor=cursor, limit=wanted)
            yield from page["items"]
            cursor = page["next_cursor"]
            left = None if left is None else left - page["n"]
            if cursor is None or left == 0:
                return

    def run(self, run: str) -> dict[str, Any]:
        """Return everything small about a run."""
        return self.get(run_path(run))

    def embedding(self, run: str, **query: Any) -> "pd.DataFrame":
        """Return the scalar of a run by step, one column per replica; `component`, `basis`, `max_points`..."""
        return _series(self.get(run_path(run, "embedding"), **query))

    def divergence(self, run: str, distance: str = "l1", **query: Any) -> "pd.DataFrame":
        """Return the distance of every replica from the reference by step."""
        return _series(self.get(run_path(run, "divergence"), distance=distance, **query))

    def metric(self, run: str, name: str = "loss", **query: Any) -> "pd.DataFrame":
        """Return a metric by step, one column per replica."""
        return _series(self.get(run_path(run, "metrics", name), **query))

    def estimates(self, run: str) -> "pd.DataFrame":
        """Return what a run says, one line per quantity."""
        import pandas as pd

        found = self.get(run_path(run, "estimates"))["estimates"]
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("quantity")

    def compare(self, runs: Sequence[str], name: str = "embedding", **query: Any) -> "pd.DataFrame":
        """Return one series of several runs by step, one column per run; `attrs` say whether the axis is shared."""
        import pandas as pd

        found = self.get("/v1/compare", runs=",".join(runs), name=name, **query)
        columns = {item["run"]: _floats(item["values"]) for item in found["runs"]}
        table = pd.DataFrame(columns, index=pd.Index(found["steps"], name="step"))
        table.attrs = {"axis": found["axis"], "message": found["message"]}
        return table

    def nearest(self, run: str, k: int = 5) -> "pd.DataFrame":
        """Return the runs whose trajectories lie nearest."""
        return _frame(self.get(run_path(run, "nearest"), k=k)["items"])

    def alerts(self, run: str | None = None, level: str | None = None, limit: int = 100) -> "pd.DataFrame":
        """Return alerts, newest first."""
        return _frame(self.get("/v1/alerts", run=run, level=level, limit=limit)["items"])

    def cancel(self, run: str) -> None:
        """Ask for the end of a run; needs the admin token."""
        self._call("POST", f"{run_path(run)}/cancel", {})

    def events(self, last_id: str | None = None) -> Iterator[Event]:
        """Yield what happens from now on, or after event `last_id`; it ends with an error when the service is gone.

        After a cut or a restart of the service the stream goes on by itself; `reset` means that something may have
        been missed.
        """
        broken_at: float | None = None
        while True:
            headers = {} if last_id is None else {"last-event-id": last_id}
            timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
            try:
                with self._http.stream("GET", "/v1/events", headers=headers, timeout=timeout) as answer:
                    if answer.is_error:
                        answer.read()
                        _raise(answer)
                    broken_at = None
                    for event in _parsed(answer.iter_lines()):
                        last_id = event.id or last_id
                        yield event
            except httpx.TransportError as error:
                broken_at = broken_at or time.monotonic()
                if time.monotonic() - broken_at > self._patience_s:
                    raise self._gone(error) from None
            time.sleep(0.5)

    def _call(self, method: str, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        while True:
            try:
                answer = self._http.request(method, path, params=dict(query))
                break
            except httpx.TransportError as error:
                # A change may have been carried out before the connection broke.
                if method != "GET" or time.monotonic() - began > self._patience_s:
                    raise self._gone(error) from None
                time.sleep(0.5)
        if answer.is_error:
            _raise(answer)
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def _gone(self, error: Exception) -> BadCall:
        return BadCall(
            self.url,
            "must be a running service",
            str(error) or type(error).__name__,
            "Start it with `streamscalar serve STORE`",
            Kind.CLUSTER,
        )


def connect(url: str = DEFAULT_URL, token: str | None = None) -> Client:
    """Connect to a service that `streamscalar serve` runs.

    Parameters
    ----------
    url
        Its address.
    token
        Read or admin token; by default from `STREAMSCALAR_TOKEN`, or the file that `serve` made on this machine.

    Raises
    ------
    BadCall
        No token, no service, or one that refuses the token.
    """
    client = Client(url, token or _token())
    client.get("/v1/experiments")
    return client


def _token() -> str:
    if found := os.environ.get("STREAMSCALAR_TOKEN"):
        return found
    path = token_folder() / READ_TOKEN_FILE
    try:
        return path.read_text().strip()
    except OSError:
        raise BadCall(
            "token", "must be given", f"nothing in STREAMSCALAR_TOKEN or {path}", "Copy it from where the service runs",
            Kind.CONFIG,
        ) from None  # fmt: skip


def _raise(answer: httpx.Response) -> None:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{answer.status_code} {answer.reason_phrase}"
    error: type[StreamscalarError] = WorkFailed if answer.status_code >= 500 else BadCall
    where, _, must = detail.partition(": ")
    raise error(where if must else str(answer.url), (must or detail).rstrip("."))


def run_path(run: str, *parts: str) -> str:
    """Return the path of a run, or of something about it."""
    return "/".join(["/v1/runs", *(quote(part, safe="") for part in (run, *parts))])


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Yield the events of a server-sent event stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
        fields = {}


def _floats(values: Sequence[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _series(document: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    columns = {name: _floats(row) for name, row in zip(document["replicas"], document["values"], strict=True)}
    table = pd.DataFrame(columns, index=pd.Index(document["steps"], name="step"))
    table.attrs = {name: document[name] for name in ("run", "name", "n", "of", "stride", "basis", "cursor")}
    return table


def _frame(items: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return one line per document; of an estimate its value, low, high and status."""
    import pandas as pd

    return pd.DataFrame([_flat(item) for item in items])


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in item.items():
        if name == "sparkline":
            continue
        if isinstance(value, Mapping) and "status" in value:
            row[name] = value["value"]
            row |= {f"{name}_{part}": value[part] for part in ("low", "high", "status")}
        else:
            row[name] = value
    return row
