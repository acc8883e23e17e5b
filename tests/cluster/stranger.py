"""What a stranger tries from another host, and what comes of it.

`python -m tests.cluster.stranger KIND FILE` makes the attempts of a file of JSON and prints an answer for each.
"""

import asyncio
import collections
import http.client
import importlib
import json
import mmap
import pkgutil
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.hosts import Host

SILENT_S = 3.0
"""Seconds without an answer after which a port counts as silent."""
AT_ONCE = 50
BINARIES = ("core/src/ray/gcs/gcs_server", "core/src/ray/raylet/raylet", "_raylet.so")
GENERATED = ("ray.core.generated", "ray.serve.generated")


@dataclass
class Stranger:
    """Makes attempts on a host, all at once."""

    host: "Host"
    folder: Path

    def connect(self, attempts: Iterable[tuple[Any, ...]]) -> list[str]:
        """Open connections to (address, port[, own address]); return `open`, `refused` or `silent` for each."""
        return [str(answer) for answer in self._make("connect", attempts)]

    def ping(self, addresses: Iterable[str]) -> list[bool]:
        """Return which addresses answer an ICMP echo."""
        return [bool(answer) for answer in self._make("ping", ([address] for address in addresses))]

    def ask(self, attempts: Iterable[tuple[Any, ...]]) -> list[tuple[int, str]]:
        """Send (address, port, method, path, headers[, body]); return status and body, status 0 for none."""
        return [(int(status), str(body)) for status, body in self._make("http", attempts)]

    def call(self, attempts: Iterable[tuple[str, int, str | None]]) -> list[dict[str, list[str]]]:
        """Call every method of Ray's at (address, port, token); return the methods by the state they ended with."""
        return [dict(answer) for answer in self._make("grpc", attempts)]

    def _make(self, kind: str, attempts: Iterable[Sequence[Any]]) -> list[Any]:
        file = self.folder / f"{kind}.json"
        file.write_text(json.dumps(list(attempts)))
        done = self.host.run(sys.executable, "-m", "tests.cluster.stranger", kind, str(file), timeout_s=200)
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout)
        return answers


async def connect(address: str, port: int, source: str | None = None) -> str:
    """Open one connection."""
    local = None if source is None else (source, 0)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port, local_addr=local), SILENT_S)
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"
    writer.close()
    return "open"


async def ping(address: str) -> bool:
    """Send one ICMP echo."""
    return await asyncio.to_thread(_pinged, address)


def _pinged(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
        echo.connect((address, 0))
        echo.settimeout(SILENT_S)
        # Type 8, code 0, checksum, identifier 0, number 1.
        echo.send(bytes((8, 0, 0xF7, 0xFE, 0, 0, 0, 1)))
        try:
            # Behind the header of IP: type 0 is the reply.
            return echo.recv(1024)[20] == 0
        except TimeoutError:
            return False


async def ask(
    address: str, port: int, method: str, path: str, headers: dict[str, str], body: str | None = None
) -> tuple[int, str]:
    """Send one request, its path as it is."""
    return await asyncio.to_thread(_asked, address, port, method, path, headers, body)


def _asked(
    address: str, port: int, method: str, path: str, headers: dict[str, str], body: str | None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


def methods() -> set[str]:
    """Return the gRPC methods that Ray's programs and descriptions name, and those that gRPC itself offers."""
    import ray

    found = {"/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
    for program in BINARIES:
        with (Path(ray.__path__[0]) / program).open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            found |= {name.decode() for name in re.findall(rb"/ray\.rpc\.[A-Za-z.]+/[A-Za-z]+", text)}
    for package in GENERATED:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name.endswith("_pb2"):
                described = importlib.import_module(f"{package}.{module.name}").DESCRIPTOR
                for service in described.services_by_name.values():
                    found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return found


async def call(address: str, port: int, token: str | None) -> dict[str, list[str]]:
    """Call every method there is with an empty message."""
    grpc: Any = importlib.import_module("grpc")
    # Nodes say who they are; Ray's streams end badly with whoever does not, see deploy/security.md.
    metadata = [("node_id", "0" * 56)]
    if token is not None:
        metadata.append(("authorization", f"Bearer {token}"))
    ended: dict[str, list[str]] = collections.defaultdict(list)
    async with grpc.aio.insecure_channel(f"{address}:{port}") as channel:

        async def one(method: str) -> None:
            try:
                await channel.unary_unary(method)(b"", metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                ended[error.code().name].append(method)
            else:
                ended["OK"].append(method)

        await asyncio.gather(*map(one, methods()))
    return {state: sorted(names) for state, names in ended.items()}


async def make(kind: str, attempts: Sequence[Sequence[Any]]) -> list[Any]:
    """Make the attempts of one kind."""
    function: Any = {"connect": connect, "ping": ping, "http": ask, "grpc": call}[kind]
    room = asyncio.Semaphore(1 if kind == "grpc" else AT_ONCE)

    async def one(attempt: Sequence[Any]) -> Any:
        async with room:
            return await function(*attempt)

    return await asyncio.gather(*map(one, attempts))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(make(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))))
