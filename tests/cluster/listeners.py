"""Who listens where: the TCP sockets that a host has open, and those that the page on security says it has."""

import ipaddress
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.hosts import Host
from tests.processes import command_line

PAGE = Path(__file__).parents[2] / "deploy" / "security.md"
LISTEN = "0A"
KINDS = {
    "/gcs/gcs_server ": "GCS",
    "/raylet/raylet ": "raylet",
    "ray::DashboardAgent": "dashboard agent",
    "ray::RuntimeEnvAgent": "runtime env agent",
    "/dashboard/dashboard.py": "dashboard",
    "/autoscaler/_private/monitor.py": "autoscaler",
    "ray.util.client.server": "client server",
    "ray::ProxyActor": "Serve proxy",
    "ray::ServeReplica": "Serve replica",
    "ray::": "work",
    "streamscalar serve": "service",
    "streamscalar run": "work",
    "serve run": "work",
}
"""What the command line of a process contains, the telling parts first, and the name of its kind on the page."""


@dataclass(frozen=True, order=True)
class Listener:
    """One listening socket: the kind of its process, its interface, and its address."""

    process: str
    interface: str
    port: int
    address: str


@dataclass(frozen=True)
class Row:
    """What the page says of one listener or several."""

    process: str
    interface: str
    ports: str
    speaks: str
    guard: str

    def names(self, listener: Listener) -> bool:
        if (self.process, self.interface) != (listener.process, listener.interface):
            return False
        if self.ports == "any":
            return True
        first, _, last = self.ports.partition("-")
        return int(first) <= listener.port <= int(last or first)


def table(heading: str) -> list[dict[str, str]]:
    """Return the first table below a heading of the page, without its backquotes."""
    text = PAGE.read_text().split(f"\n### {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def said(*headings: str) -> list[Row]:
    """Return the listeners of some tables of the page."""
    return [
        Row(row["process"], row["interface"], row["port"], row["speaks"], row["asks for"])
        for heading in headings
        for row in table(heading)
    ]


def open_routes() -> dict[tuple[str, str], set[str]]:
    """Return what answers without a token, by process and protocol."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in table("What answers without a token"):
        for process in row["process"].split(", "):
            found[process, row["speaks"]] |= set(row["answers"].split(", "))
    return found


def rows_of(listener: Listener, rows: Sequence[Row]) -> list[Row]:
    """Return what the page says of a listener; its port by number says more than *any*."""
    found = [row for row in rows if row.names(listener)]
    return [row for row in found if row.ports != "any"] or found


def differences(host: Host, rows: Sequence[Row], timeout_s: float = 120.0) -> list[str]:
    """Return what listens without a row, and the rows without a listener; wait while there are such."""
    deadline = time.monotonic() + timeout_s
    while True:
        told = {one: rows_of(one, rows) for one in sorted(listeners(host))}
        wrong = [f"not on the page: {one}" for one, found in told.items() if not found]
        wrong += [f"not there: {row}" for row in rows if not any(row in found for found in told.values())]
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(0.5)


def listeners(host: Host) -> set[Listener]:
    """Return all that listens on a host."""
    pids = host.pids()
    owners = {inode: pid for pid in pids for inode in _sockets(pid)}
    found = set()
    for name in ("tcp", "tcp6"):
        for line in _lines(pids, name):
            fields = line.split()
            if fields[3] == LISTEN:
                digits, port = fields[1].split(":")
                address = _address(digits)
                found.add(Listener(_kind(owners.get(fields[9], 0)), _interface(address), int(port, 16), str(address)))
    return found


def _kind(pid: int) -> str:
    command = command_line(pid)
    return next((kind for part, kind in KINDS.items() if part in command), command or "unknown")


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address of the kernel's tables, which hold it in words of the machine's byte order."""
    raw = bytes.fromhex(digits)
    found = ipaddress.ip_address(b"".join(raw[first : first + 4][::-1] for first in range(0, len(raw), 4)))
    return getattr(found, "ipv4_mapped", None) or found


def _interface(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_unspecified:
        return "all"
    return "loopback" if address.is_loopback else "node"


def _lines(pids: Sequence[int], name: str) -> list[str]:
    for pid in pids:
        try:
            return Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
    return []


def _sockets(pid: int) -> Iterator[str]:
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for link in links:
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
        except OSError:
            continue
        if match is not None:
            yield match[1]
