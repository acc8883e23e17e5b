"""Client of the query API: `connect` returns a `Client`, whose methods return pandas data frames."""

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
"""Seconds for which calls are repeated while the service does not answer."""
PAGE = 500
SILENCE_S = 45.0
"""Seconds without data after which an event stream counts as broken; the service sends a heartbeat every 15 s."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the service.

    Attributes
    ----------
    id
        Position in the stream, for `Client.events(last_id)`.
    kind
        `rows`, `runs`, `basis`, `alert` or `reset`.
    data
        Document of the event, as in the API.
    """

    id: str
    kind: str
    data: dict[str, Any]


class Client:
    """A connection to a running service.

    While the service does not answer, read requests are repeated for `patience_s`, so that they survive a restart of
    the service. Series are returned as data frames indexed by step, with one column per replica.

    Parameters
    ----------
    url
        URL of the service, such as `http://127.0.0.1:8870`.
    token
        Read token, or admin token for `cancel`.
    patience_s
        Seconds for which a request is repeated.
    """

    def __init__(self, url: str, token: str, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self._patience_s = patience_s
        headers = {"authorization": f"Bearer {token}"}
        # Proxies set in the environment are not meant for the user's own service.
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
        """Return the JSON document at a path of the API, such as `/v1/experiments`.

        Parameters
        ----------
        path
            Path with leading slash.
        query
            Query parameters; those that are `None` are left out.

        Raises
        ------
        BadCall
            The service rejects the call, or does not answer within `patience_s`.
        WorkFailed
            The service failed (status 500 and above).
        """
        return self._call("GET", path, {name: value for name, value in query.items() if value is not None})

    def experiments(self) -> "pd.DataFrame":
        """Return a data frame with one row per experiment."""
        return _frame(self.get("/v1/experiments")["items"])

    def runs(self, filter: str = "", sort: str = "-updated_at", limit: int | None = None) -> "pd.DataFrame":  # noqa: A002
        """Return a data frame with one row per run.

        Parameters
        ----------
        filter
            Conditions that runs must meet, such as `regime=chaotic learning_rate>2`, or part of a name.
        sort
            Key to sort by; with a minus in descending order.
        limit
            Maximum number of runs; by default all.
        """
        return _frame(list(self.iterate_runs(filter, sort, limit)))

    def iterate_runs(self, filter: str = "", sort: str = "-updated_at", limit: int | None = None) -> Iterator[Any]:  # noqa: A002
        """Yield the documents of runs, with the arguments of `runs`; they are requested page by page."""
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
        """Return the details of a run: setting, state, layers, replicas and names of metrics, without series.

        Parameters
        ----------
        run
            Full name, such as `digits-sweep:lr2.5_ic0`.
        """
        return self.get(run_path(run))

    def embedding(self, run: str, **query: Any) -> "pd.DataFrame":
        """Return a coordinate of the embedding of a run, by default the first, the scalar embedding.

        Parameters
        ----------
        run
            Full name of the run.
        query
            Query parameters of the API, such as `component` (from 0), `basis`, `max_points` and `to` (last step).
        """
        return _series(self.get(run_path(run, "embedding"), **query))

    def divergence(self, run: str, distance: str = "l1", **query: Any) -> "pd.DataFrame":
        """Return the distance of every replica from the reference: `l1`, `rms`, `embedded` or `random`."""
        return _series(self.get(run_path(run, "divergence"), distance=distance, **query))

    def metric(self, run: str, name: str = "loss", **query: Any) -> "pd.DataFrame":
        """Return a recorded metric, such as `loss` or `accuracy`."""
        return _series(self.get(run_path(run, "metrics", name), **query))

    def estimates(self, run: str) -> "pd.DataFrame":
        """Return the estimates of a run: one row per quantity, with value, interval and status."""
        import pandas as pd

        found = self.get(run_path(run, "estimates"))["estimates"]
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("quantity")

    def compare(self, runs: Sequence[str], name: str = "embedding", **query: Any) -> "pd.DataFrame":
        """Return one series of the references of several runs, with one column per run.

        `attrs["axis"]` of the data frame says whether the values share an axis and may be compared, `attrs["message"]`
        why.
        """
        import pandas as pd

        found = self.get("/v1/compare", runs=",".join(runs), name=name, **query)
        columns = {item["run"]: _floats(item["values"]) for item in found["runs"]}
        table = pd.DataFrame(columns, index=pd.Index(found["steps"], name="step"))
        table.attrs = {"axis": found["axis"], "message": found["message"]}
        return table

    def nearest(self, run: str, k: int = 5) -> "pd.DataFrame":
        """Return the `k` runs whose trajectories are nearest to that of a run, nearest first."""
        return _frame(self.get(run_path(run, "nearest"), k=k)["items"])

    def alerts(self, run: str | None = None, level: str | None = None, limit: int = 100) -> "pd.DataFrame":
        """Return alerts, newest first: all, or those of one run, or from a minimum level (info, warn, error) on."""
        return _frame(self.get("/v1/alerts", run=run, level=level, limit=limit)["items"])

    def cancel(self, run: str) -> None:
        """Request the end of a run; requires the admin token."""
        self._call("POST", f"{run_path(run)}/cancel", {})

    def events(self, last_id: str | None = None) -> Iterator[Event]:
        """Yield events from now on, or those after event `last_id`.

        The stream reconnects after a lost connection or a restart of the service. An event `reset` means that events
        may have been lost.

        Raises
        ------
        BadCall
            The service does not answer for `patience_s`.
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
                # A change may have been made before the connection broke, so only reads are repeated.
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
            "Start it with `streamscalar serve STORE`, or check the URL",
            Kind.CLUSTER,
        )


def connect(url: str = DEFAULT_URL, token: str | None = None) -> Client:
    """Connect to a service that was started with `streamscalar serve`.

    Parameters
    ----------
    url
        URL of the service.
    token
        Read or admin token. Default: `STREAMSCALAR_TOKEN`, else the file `~/.config/streamscalar/token`, which
        `streamscalar serve` creates on its machine.

    Raises
    ------
    BadCall
        There is no token, the service does not answer, or it rejects the token.
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
            "token", "must be given", f"neither STREAMSCALAR_TOKEN nor {path}",
            "Copy it from the machine of the service", Kind.CONFIG,
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
    """Return the path of a run in the API, or of one of its resources."""
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
    """Return one row per document; an estimate becomes the columns value, low, high and status."""
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
