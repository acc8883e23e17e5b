"""The event stream: resuming, falling behind, memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

from streamscalar_services.api.watch.events import Hub


def _run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a scenario in a thread: a browser of other tests may keep a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(scenario())).result()


async def _take(stream: AsyncIterator[bytes], n: int) -> list[dict[str, str]]:
    """Return the next `n` events."""
    found: list[dict[str, str]] = []
    while len(found) < n:
        chunk = await asyncio.wait_for(anext(stream), 5)
        for block in chunk.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                found.append(fields)
    return found


def test_every_event_reaches_every_client_in_order() -> None:
    async def scenario() -> None:
        hub = Hub()
        streams = [hub.follow(None) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        for number in range(5):
            await hub.publish("rows", {"number": number})
        for stream in streams:
            got = await _take(stream, 5)
            assert [json.loads(event["data"])["number"] for event in got] == list(range(5))

    _run(scenario)


def test_a_client_resumes_after_its_last_event() -> None:
    async def scenario() -> None:
        hub = Hub()
        stream = hub.follow(None)
        await anext(stream)
        for number in range(6):
            await hub.publish("rows", {"number": number})
        third = (await _take(stream, 3))[2]["id"]
        again = await _take(hub.follow(third), 3)
        assert [json.loads(event["data"])["number"] for event in again] == [3, 4, 5]

    _run(scenario)


def test_a_client_that_missed_too_much_or_knew_another_service_receives_reset() -> None:
    async def scenario() -> None:
        hub = Hub(kept_bytes=200)
        stream = hub.follow(None)
        await anext(stream)
        await hub.publish("rows", {})
        first = (await _take(stream, 1))[0]["id"]
        for _ in range(10):
            await hub.publish("rows", {})
        assert (await _take(hub.follow(first), 1))[0]["event"] == "reset"
        for foreign in ("ffffffff-3", "nonsense", first.split("-")[0] + "-999", first.split("-")[0] + "-" + "9" * 99):
            assert (await _take(hub.follow(foreign), 1))[0]["event"] == "reset"
        after = hub.follow("nonsense")
        await _take(after, 1)
        await hub.publish("rows", {"number": 11})
        assert json.loads((await _take(after, 1))[0]["data"]) == {"number": 11}

    _run(scenario)


def test_memory_is_bounded_whatever_is_told() -> None:
    async def scenario() -> None:
        hub = Hub(kept_bytes=10_000)
        for number in range(2000):
            await hub.publish("rows", {"text": "x" * (number % 700)})
        assert sum(map(len, hub._ring)) <= 10_000
        await hub.publish("rows", {"text": "x" * 20_000})
        assert len(hub._ring) == 1

    _run(scenario)


def test_clients_are_counted_while_they_stay() -> None:
    async def scenario() -> None:
        hub = Hub()
        stream = hub.follow(None)
        await anext(stream)
        assert hub.n_clients == 1
        await stream.aclose()
        assert hub.n_clients == 0

    _run(scenario)
