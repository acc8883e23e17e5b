"""The monitor: polls the stores, analyses runs, raises alerts, and publishes events."""

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
from streamscalar_services.api.watch.catalog import Catalog
from streamscalar_services.api.watch.entries import Entry
from streamscalar_services.api.watch.events import Hub

_log = logging.getLogger(__name__)


class Monitor:
    """The background part of the service.

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
        """Poll the stores while the block runs."""
        self.analyst.start()
        task = asyncio.create_task(self._poll_forever())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(self.analyst.close)
            await asyncio.to_thread(self.sinks.close)

    async def _poll_forever(self) -> None:
        while True:
            try:
                for kind, data in await asyncio.to_thread(self.poll):
                    await self.hub.publish(kind, data)
            except Unreachable as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001  (an error in one poll must not stop the later ones)
                _log.exception("polling the stores failed")
            await asyncio.sleep(self._options.poll_every_s)

    def poll(self) -> list[tuple[str, Any]]:
        """Poll the stores once and return the events to publish.

        The events, and the alerts that follow from the changes, carry the id of this poll as `change_id`.
        """
        changes = self.catalog.refresh()
        clock = self.queries.clock()
        for entry in [*changes.new, *changes.moved]:
            self.analyst.offer(entry)
            self.alarms.check_ranks(entry, changes.id)
        whole = {entry.id: entry for entry in [*changes.new, *self.analyst.take_finished()]}
        whole |= {entry.id: entry for entry in self.catalog.live() if self._has_new_state(entry, clock)}
        for entry in self.catalog.live():
            self.alarms.check_silent(entry, clock.now, read, changes.id)
        moved = [entry for entry in changes.moved if entry.id not in whole]
        events: list[tuple[str, Any]] = []
        if whole:
            # In the first poll everything is new; later clients fetch the lists anyway.
            items = [item(entry, clock).model_dump(mode="json") for entry in list(whole.values())[:MOST_ITEMS]]
            events.append(("runs", {"items": items, "n": len(items), "of": len(whole), "change_id": changes.id}))
        if moved:
            items = [_progress(entry, clock) for entry in moved]
            events.append(("rows", {"items": items, "change_id": changes.id}))
        for entry in changes.moved:
            if self._n_bases.get(entry.id, 0) != entry.n_bases:
                self._n_bases[entry.id] = entry.n_bases
                basis = "exact" if entry.has_exact else entry.n_bases
                events.append(("basis", {"run": entry.id, "basis": basis, "change_id": changes.id}))
        events += [("alert", alert.model_dump(mode="json")) for alert in self.alarms.take_fresh()]
        return events

    def _has_new_state(self, entry: Entry, clock: Clock) -> bool:
        state = entry.state(clock.now, clock.silent_after_s)
        if self._states.get(entry.id) == state:
            return False
        self._states[entry.id] = state
        return True


MOST_ITEMS = 200
"""Maximum number of runs in one event; if `of` is larger, clients fetch the list."""


def _progress(entry: Entry, clock: Clock) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state(clock.now, clock.silent_after_s),
        "n_rows": entry.n_rows,
        "step": entry.step,
        "loss": json_float(entry.loss),
        "accuracy": json_float(entry.accuracy),
    }
