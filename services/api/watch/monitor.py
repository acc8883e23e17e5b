"""Keeps the catalog up to date and tells the clients of the event stream what changed."""

import asyncio
import contextlib
import logging
from typing import Any

from streamscalar.store import Unreachable
from streamscalar.types import json_float
from streamscalar_services.api.query.analyst import Analyst, read
from streamscalar_services.api.query.listing import Clock, item
from streamscalar_services.api.query.queries import Queries
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.watch.alarms import Alarms
from streamscalar_services.api.watch.catalog import Catalog, Entry
from streamscalar_services.api.watch.events import Hub

_log = logging.getLogger(__name__)


class Monitor:
    """The living part of the service.

    Attributes
    ----------
    catalog, analyst, alarms, queries, hub
        Its parts.
    """

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self.catalog = Catalog(options.root)
        self.sinks = options.sinks
        self.alarms = Alarms(self.sinks)
        self.analyst = Analyst(self.alarms)
        self.queries = Queries(self.catalog, options)
        self.hub = Hub()
        self._states: dict[str, str] = {}
        self._n_bases: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """Watch the stores while the block runs."""
        self.analyst.start()
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(self.analyst.close)
            await asyncio.to_thread(self.sinks.close)

    async def _watch(self) -> None:
        while True:
            try:
                for kind, data in await asyncio.to_thread(self.look):
                    await self.hub.publish(kind, data)
            except Unreachable as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001  (whatever is wrong with one look must not end all later ones)
                _log.exception("a look at the stores failed")
            await asyncio.sleep(self._options.look_every_s)

    def look(self) -> list[tuple[str, Any]]:
        """Look at the stores once and return what to tell."""
        changes = self.catalog.refresh()
        clock = self.queries.clock()
        for entry in [*changes.new, *changes.moved]:
            self.analyst.offer(entry)
        whole = {entry.id: entry for entry in [*changes.new, *self.analyst.take_finished()]}
        whole |= {entry.id: entry for entry in self.catalog.live() if self._has_new_state(entry, clock)}
        for entry in self.catalog.live():
            self.alarms.take_silent(entry, clock.now, read)
        moved = [entry for entry in changes.moved if entry.id not in whole]
        events: list[tuple[str, Any]] = []
        if whole:
            # At the first look everything is new; a client that comes later fetches lists anyway.
            items = [item(entry, clock).model_dump(mode="json") for entry in list(whole.values())[:MOST_ITEMS]]
            events.append(("runs", {"items": items, "n": len(items), "of": len(whole)}))
        if moved:
            events.append(("rows", {"items": [_progress(entry, clock) for entry in moved]}))
        for entry in changes.moved:
            if self._n_bases.get(entry.id, 0) != entry.n_bases:
                self._n_bases[entry.id] = entry.n_bases
                events.append(("basis", {"run": entry.id, "basis": "exact" if entry.has_exact else entry.n_bases}))
        events += [("alert", alert.model_dump(mode="json")) for alert in self.alarms.take_fresh()]
        return events

    def _has_new_state(self, entry: Entry, clock: Clock) -> bool:
        state = entry.state(clock.now, clock.silent_after_s)
        if self._states.get(entry.id) == state:
            return False
        self._states[entry.id] = state
        return True


MOST_ITEMS = 200
"""Whole lines in one event; with more, `of` says so and clients fetch the list."""


def _progress(entry: Entry, clock: Clock) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state(clock.now, clock.silent_after_s),
        "n_rows": entry.n_rows,
        "step": entry.step,
        "loss": json_float(entry.loss),
        "accuracy": json_float(entry.accuracy),
    }
