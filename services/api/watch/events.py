"""The event stream: one bounded ring for all clients, each event encoded once."""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

KEPT_BYTES = 8 * 2**20
"""Past events kept for clients that reconnect; a client that missed more fetches its lists again."""
HEARTBEAT_S = 15.0
RETRY_MS = 2000


class Hub:
    """Events of this service since it started; use it on its event loop only.

    Ids are `<epoch>-<number>`. The epoch is random for each start, so that a client that reconnects after a restart
    receives `reset` and fetches its lists again.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._epoch = secrets.token_hex(4)
        self._kept_bytes = kept_bytes
        self._ring: deque[bytes] = deque()
        self._n_bytes = 0
        self._next = 0
        self._news = asyncio.Condition()
        self.n_clients = 0

    async def publish(self, kind: str, data: Any) -> None:
        """Send an event to all clients; a client that does not read delays no other."""
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        event = f"id: {self._epoch}-{self._next}\nevent: {kind}\ndata: {text}\n\n".encode()
        self._ring.append(event)
        self._next += 1
        self._n_bytes += len(event)
        while self._n_bytes > self._kept_bytes and len(self._ring) > 1:
            self._n_bytes -= len(self._ring.popleft())
        async with self._news:
            self._news.notify_all()

    async def follow(self, last_id: str | None) -> AsyncGenerator[bytes, None]:
        """Yield the events after `last_id` (without it, new events) in chunks of whole events."""
        position = self._next if last_id is None else self._position(last_id)
        self.n_clients += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            while True:
                oldest = self._next - len(self._ring)
                if position is None or position < oldest:
                    position = self._next
                    reason = "Some events are no longer kept; fetch the lists again."
                    data = json.dumps({"reason": reason})
                    yield f"id: {self._epoch}-{self._next - 1}\nevent: reset\ndata: {data}\n\n".encode()
                    continue
                if position < self._next:
                    chunk = b"".join(list(self._ring)[position - oldest :])
                    position = self._next
                    yield chunk
                    continue
                if not await self._news_by(HEARTBEAT_S):
                    yield b": still here\n\n"
        finally:
            self.n_clients -= 1

    async def _news_by(self, timeout_s: float) -> bool:
        seen = self._next
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._next != seen)
        except TimeoutError:
            return False
        return True

    def _position(self, last_id: str) -> int | None:
        epoch, _, number = last_id.partition("-")
        is_number = number.isascii() and number.isdecimal() and len(number) < 16
        if epoch != self._epoch or not is_number or int(number) >= self._next:
            return None
        return int(number) + 1
