"""What others reach: the listeners are those of deploy/security.md, and nothing answers but what the page says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from streamscalar.runtime import run
from streamscalar.runtime.ray.token import protect_token
from streamscalar_services.api.tokens import Right, Tokens
from streamscalar_services.dashboard import STATIC
from tests.cluster.experiments import run_command, run_trained_on
from tests.cluster.hosts import Host, Hosts, Nodes, Process, ip, network
from tests.cluster.listeners import PAGE, Row, differences, listeners, open_routes, rows_of, said
from tests.cluster.stranger import Stranger
from tests.conftest import small_config
from tests.processes import command_line, wait_for
from tests.slow import slow_config

TOKEN, ADMIN = "read-token-of-this-test", "admin-token-of-this-test"
SECRET = "name-of-an-experiment"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REFUSALS = {401, 403, 404, 405}
DETOURS = ("/", "/static/..", "/static/%2e%2e", "/health/..", "/static/..%2f", "/.", "/%2e")
"""What stands before a path that a careless check may take for an open one."""


def recipe(start: str) -> list[str]:
    """Return the options of the command of deploy/ray/README.md that begins with `start`, without its addresses."""
    text = (PAGE.parent / "ray" / "README.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    words = shlex.split(line)[2:]
    return [word for word in words if not word.startswith(("--head", "--block", "--address", "--node-ip-address"))]


@pytest.fixture(scope="module")
def by_recipe(needs_namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosts, Process]]:
    """Start a cluster as the page on Ray says, and an experiment that lasts; gives its driver too."""
    with network(tmp_path_factory.mktemp("hosts")) as hosts:
        join = ["--address", hosts.cluster, *recipe("ray start --block --address"), "--num-cpus", "1"]
        hosts.start_head(*recipe("ray start --head"))
        for worker in hosts.workers:
            worker.ray_start(*join)
        store = tmp_path_factory.mktemp("stores") / "store"
        driver = hosts.head.start(*run_command(hosts, slow_config(store)))
        for worker in hosts.workers:
            run_trained_on(worker, store)
        yield hosts, driver


@pytest.fixture(scope="module")
def with_web_page(needs_namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Start a head with Ray's web page for all to see, and room for a replica of Serve."""
    with network(tmp_path_factory.mktemp("hosts")) as hosts:
        options = ("--include-dashboard=true", "--dashboard-host=0.0.0.0", "--num-cpus=1")
        hosts.start_head(*recipe("ray start --head"), *options)
        yield hosts


@pytest.fixture
def idle(hosts: Hosts) -> Iterator[Hosts]:
    """Hosts on which nothing runs; what a test starts and sets there ends with it."""
    chosen = (hosts.head, hosts.worker2, hosts.stranger)
    environments = [dict(host.environment) for host in chosen]
    yield hosts
    for host, environment in zip(chosen, environments, strict=True):
        host.close()
        host.environment = environment


def check_guards(visitor: Stranger, host: Host, rows: Sequence[Row]) -> None:
    """Check that what a visitor without a token reaches of a host lets it do what its row says, and no more.

    A visitor on the host itself reaches loopback too.
    """
    near = visitor.host is host
    found = sorted(one for one in listeners(host) if near or one.interface != "loopback")
    doors = {one: ("127.0.0.1" if one.interface == "loopback" else host.address, one.port) for one in found}
    told = {one: {row.speaks for row in rows_of(one, rows)} for one in found}
    maybe = [one for one in found if "metrics" in told[one]]
    scraped = visitor.ask((*doors[one], "GET", "/metrics", {}) for one in maybe)
    metrics = {one for one, (status, body) in zip(maybe, scraped, strict=True) if status == 200 and "# HELP" in body}
    promised = [row.process for row in rows if row.speaks == "metrics" and (near or row.interface != "loopback")]
    assert sorted(one.process for one in metrics) == sorted(promised)

    by_http = [one for one in found if "HTTP" in told[one]]
    asked = visitor.ask((*doors[one], "GET", "/api/any", {}) for one in by_http)
    assert {status for status, _ in asked} <= {401}, by_http

    by_grpc = [one for one in found if "gRPC" in told[one] and one not in metrics]
    attempts = [(*doors[one], token) for one in by_grpc for token in (None, "wrong" * 8)]
    called = [one for one in by_grpc for _ in range(2)]
    for one, ended in zip(called, visitor.call(attempts), strict=True):
        assert set(ended) <= {"OK", "UNIMPLEMENTED", "UNAUTHENTICATED"}, (one, ended)
        assert set(ended.get("OK", ())) <= open_routes()[one.process, "gRPC"], one
        assert ended.get("UNAUTHENTICATED"), one
    assert listeners(host) >= set(found), "nothing fell over"


def refused(stranger: Stranger, attempts: Iterable[tuple[str, int, str, str, dict[str, str]]]) -> set[str]:
    """Make requests without a token; return the paths that were answered with anything but a refusal."""
    made = list(attempts)
    return {
        path for (_, _, _, path, _), (status, _) in zip(made, stranger.ask(made), strict=True) if status not in REFUSALS
    }


def as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user of this machine."""
    nobody = 65534
    return subprocess.run(
        words, user=nobody, group=nobody, extra_groups=[], capture_output=True, text=True, check=False
    )


def test_the_listeners_of_a_cluster_are_those_of_the_page(by_recipe: tuple[Hosts, Process], tmp_path: Path) -> None:
    hosts, _ = by_recipe
    assert differences(hosts.head, said("Head")) == []
    assert differences(hosts.worker1, said("Worker")) == []
    stranger = Stranger(hosts.stranger, tmp_path)
    check_guards(stranger, hosts.head, said("Head"))
    check_guards(stranger, hosts.worker1, said("Worker"))

    commands = [command_line(pid) for host in (hosts.head, hosts.worker1) for pid in host.pids()]
    assert len(commands) > 10
    assert not [command for command in commands if hosts.token in command], "the list of processes is for all"
    session = (hosts.ray_folder / "session_latest").resolve()
    searched = subprocess.run(["grep", "--recursive", "--files-with-matches", hosts.token, session], check=False)
    assert searched.returncode == 1, "Ray's folder is for all"
    writable = as_nobody("find", str(session), "-maxdepth", "1", "-type", "d", "-writable").stdout.splitlines()
    assert f"{session}/sockets" in writable, "the page warns of it"


def test_a_stranger_does_not_join(by_recipe: tuple[Hosts, Process]) -> None:
    hosts, _ = by_recipe
    follower = hosts.head.follow(hosts.cluster)
    nodes = Nodes(follower)
    members = {host.address for host in (hosts.head, *hosts.workers)}
    ray = str(Path(sys.executable).with_name("ray"))
    join = [ray, "start", "--address", hosts.cluster, "--node-ip-address", hosts.stranger.address, "--num-cpus", "1"]
    drive = [sys.executable, "-c", f"import ray; ray.init('{hosts.cluster}'); ray.nodes()"]
    attempts = []
    for credentials in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "wrong" * 8}):
        hosts.stranger.environment.update(credentials)
        attempts += [hosts.stranger.start(*words) for words in (join, drive)]
    for attempt in attempts:
        wait_for("the refusal", attempt.has_ended, 120)
        assert attempt.exit_code == 1, attempt.said
    assert nodes.alive == members
    hosts.stranger.environment.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=hosts.token)
    for words in (join, drive):
        done = hosts.stranger.run(*words)
        assert done.returncode == 0, done.stderr
    wait_for("who has the token to join", lambda: hosts.stranger.address in nodes.alive)
    follower.kill()
    hosts.stranger.close()
    del hosts.stranger.environment["RAY_AUTH_TOKEN"]


def test_behind_the_firewall_nothing_answers_and_the_work_goes_on(
    by_recipe: tuple[Hosts, Process], tmp_path: Path
) -> None:
    if shutil.which("nft") is None:
        pytest.skip("the firewall needs nftables")
    cluster, driver = by_recipe
    hosts = (cluster.head, *cluster.workers)
    admin, monitor = "10.77.0.7", "10.77.0.8"
    for address in (admin, monitor):
        ip("-n", cluster.stranger.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    rules = (PAGE.parent / "nftables" / "streamscalar.nft").read_text()
    for name, addresses in {"hosts": [h.address for h in hosts], "admins": [admin], "monitors": [monitor]}.items():
        rules, n_changed = re.subn(rf"(?m)^define {name} = .*$", f"define {name} = {{ {', '.join(addresses)} }}", rules)
        assert n_changed == 1
    file = tmp_path / "streamscalar.nft"
    file.write_text(rules)
    assert all(worker.pids_of("ray::TrainerActor.train") for worker in cluster.workers), "they work"
    stranger = Stranger(cluster.stranger, tmp_path)
    doors = [
        (address, one.port)
        for host in hosts
        for one in listeners(host)
        for address in (host.address, _link_local(host))
        if one.interface != "loopback"
    ]
    assert len(doors) > 40
    assert stranger.connect(doors).count("open") > 40, "without it"
    assert stranger.ping(host.address for host in hosts) == [True] * 3
    for host in hosts:
        host.start(sys.executable, "-c", "import socket, time; door = socket.create_server(('', 22)); time.sleep(600)")
        for options in (["--check"], [], []):
            done = host.run("nft", *options, "--file", str(file))
            assert done.returncode == 0, done.stderr
    doors += [(host.address, port) for host in hosts for port in (1, 80, 443, 8000, 8265, 8870)]
    assert set(stranger.connect(doors)) == {"silent"}
    assert stranger.ping(host.address for host in hosts) == [False] * 3
    allowed = [(host.address, 22, admin) for host in hosts] + [(cluster.head.address, 44227, monitor)]
    assert stranger.connect(allowed) == ["open"] * 4
    crossed = [(cluster.head.address, 22, monitor), (cluster.head.address, 6379, monitor)]
    crossed += [(cluster.head.address, port, admin) for port in (6379, 44227)]
    assert stranger.connect(crossed) == ["silent"] * 4
    cluster.release()
    driver.finish()
    assert cluster.head.run("nft", "delete", "table", "inet", "streamscalar").returncode == 0
    assert stranger.connect([(cluster.head.address, 44227)]) == ["open"], "it is undone"


def routes_of(hosts: Hosts, log: str) -> list[tuple[str, str]]:
    """Return the methods and paths that a server of Ray's wrote into its log."""
    file = hosts.ray_folder / "session_latest" / "logs" / log
    wait_for("its routes", lambda: re.search(r"Registered \d+ routes", file.read_text()))
    return re.findall(r"<ResourceRoute \[(\w+)\] <\w+Resource  ([^ >]+)", file.read_text())


def test_ray_asked_for_its_web_page_refuses_strangers(with_web_page: Hosts, tmp_path: Path) -> None:
    hosts = with_web_page
    rows = said("Head", "Ray's web page")
    assert differences(hosts.head, [row for row in rows if row.process != "work"]) == []
    stranger = Stranger(hosts.stranger, tmp_path)
    for process, port in (("dashboard", 8265), ("dashboard agent", 52365)):
        routes = routes_of(hosts, f"{process.replace(' ', '_')}.log")
        assert len(routes) > 10
        known = [(method, re.sub(r"{\w+}", "x", path)) for method, path in routes]
        known += [("GET", path) for path in open_routes()[process, "HTTP"] if not path.endswith("*")]
        tricks = [("GET", detour + path) for method, path in known for detour in DETOURS]
        for headers in ({}, {"Authorization": "Bearer " + "wrong" * 8}, {"Cookie": "ray-authentication-token=wrong"}):
            made = [(hosts.head.address, port, method, path, headers) for method, path in [*known, *tricks]]
            assert refused(stranger, made) == {path for path in open_routes()[process, "HTTP"] if "*" not in path}


def test_the_proxy_of_serve_checks_nothing_and_our_application_all(with_web_page: Hosts, tmp_path: Path) -> None:
    hosts = with_web_page
    hosts.head.environment.update(STREAMSCALAR_TOKEN=TOKEN, STREAMSCALAR_ADMIN_TOKEN=ADMIN)
    serve = str(Path(sys.executable).with_name("serve"))
    app = "streamscalar_services.serve:app"
    hosts.head.start(serve, "run", "--address", hosts.cluster, app, f"root={tmp_path}")
    rows = said("Head", "Ray's web page", "Ray Serve")
    assert differences(hosts.head, rows) == []
    check_guards(Stranger(hosts.stranger, tmp_path), hosts.head, rows)
    here = Stranger(hosts.head, tmp_path)
    told = open_routes()["Serve proxy", "HTTP"] | open_routes()["service", "HTTP"]
    answers = {path for path in told if "*" not in path}
    tried = {"/-/healthz", "/-/routes", "/-/any", "/v1/runs", "/v1/openapi.json", "/metrics"} | answers
    wait_for("the application", lambda: here.ask([("127.0.0.1", 8000, "GET", "/ready", {})])[0][0] == 200)
    assert refused(here, (("127.0.0.1", 8000, "GET", path, {}) for path in tried)) == answers


def test_jobs_need_the_token(with_web_page: Hosts, tmp_path: Path) -> None:
    hosts = with_web_page
    stranger = Stranger(hosts.stranger, tmp_path)
    job = json.dumps({"entrypoint": "true"})
    submitted = stranger.ask(
        (hosts.head.address, 8265, "POST", "/api/jobs/", {"Authorization": text} if text else {}, job)
        for text in (None, "Bearer wrong", f"Bearer {hosts.token}")
    )
    assert [status for status, _ in submitted] == [401, 403, 200]


def test_a_local_run_opens_what_the_page_says(idle: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, home, folder = idle.worker2, tmp_path / "fresh", Path(f"/tmp/{idle.mark}-local")
    home.mkdir()
    folder.mkdir(mode=0o700)
    for name in [name for name in host.environment if name.startswith("RAY_")]:
        del host.environment[name]
    host.environment.update(HOME=str(home), RAY_TMPDIR=str(folder))
    config = tmp_path / "config.json"
    config.write_text(slow_config(tmp_path / "store").model_dump_json())
    host.start(*host.streamscalar("run", str(config), "--executor", "ray", "--json"))
    wait_for("a trainer", partial(host.pids_of, "ray::TrainerActor.train"), 180)

    assert differences(host, said("Local run")) == []
    stranger = Stranger(idle.stranger, tmp_path)
    check_guards(stranger, host, said("Local run"))
    check_guards(Stranger(host, tmp_path), host, said("Local run"))
    found = sorted(listeners(host))
    reached = stranger.connect((host.address, one.port) for one in found)
    reachable = {one.port for one in found if one.interface != "loopback"}
    assert reached == ["open" if one.port in reachable else "refused" for one in found]

    token = home / ".ray" / "auth_token"
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    token.chmod(0o644)
    monkeypatch.setenv("HOME", str(home))
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert as_nobody("ls", str(folder)).returncode != 0, "a folder of mode 0700 keeps others out of Ray's"


def test_the_service_answers_only_its_open_routes(idle: Hosts, tmp_path: Path) -> None:
    store = tmp_path / "stores" / SECRET
    run(small_config(store, experiment={"name": SECRET}))
    host = idle.head
    host.environment.update(STREAMSCALAR_TOKEN=TOKEN, STREAMSCALAR_ADMIN_TOKEN=ADMIN)
    host.start(*host.streamscalar("serve", str(tmp_path / "stores")))
    assert differences(host, said("The query API")) == []
    host.close()
    serve = host.streamscalar("serve", str(tmp_path / "stores"), "--host", host.address)
    host.start(*serve)
    stranger = Stranger(idle.stranger, tmp_path)
    wait_for("the service", lambda: stranger.ask([(host.address, 8870, "GET", "/ready", {})])[0][0] == 200)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    schema, runs = stranger.ask((host.address, 8870, "GET", path, bearer) for path in ("/v1/openapi.json", "/v1/runs"))
    assert SECRET in runs[1], "with the token all is told"
    run_id = json.loads(runs[1])["items"][0]["id"]

    paths = [path.replace("{run}", run_id).replace("{name}", SECRET) for path in json.loads(schema[1])["paths"]]
    paths += ["/v1/openapi.json", "/docs", "/redoc", "/openapi.json", f"/v1/runs?token={TOKEN[:-1]}"]
    is_open = open_routes()["service", "HTTP"]
    closed = [path for path in paths if path not in is_open]
    assert len(closed) > 15
    tried = [(method, path) for method in METHODS for path in closed]
    tried += [("GET", detour + path) for detour in DETOURS for path in closed]
    lies: tuple[dict[str, str], ...]
    lies = ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Cookie": "streamscalar=x"})
    made = [(host.address, 8870, method, path, headers) for headers in lies for method, path in tried]
    for attempt, (status, body) in zip(made, stranger.ask(made), strict=True):
        assert status == 401 or (status == 404 and attempt[3].startswith("/static/")), (attempt, status)
        assert SECRET not in body
        assert TOKEN not in body

    static = {f"/static/{file.relative_to(STATIC)}" for file in STATIC.rglob("*.*")} | {"/static/plotly.js"}
    told = [path for path in is_open if not path.endswith("*")]
    for path, (status, body) in zip(
        [*told, *static], stranger.ask((host.address, 8870, "GET", path, {}) for path in [*told, *static]), strict=True
    ):
        assert status == 200, path
        assert SECRET not in body
    assert not [pid for pid in host.pids() if TOKEN in command_line(pid)]

    tokens = Tokens(TOKEN, ADMIN)
    kept = [{"Cookie": f"{tokens.cookie_name}={tokens.cookie(right)}"} for right in Right]
    kept += [{"Authorization": f"Bearer {token}"} for token in (TOKEN, ADMIN)]
    asked = [(host.address, 8870, "GET", "/v1/runs", headers) for headers in kept]
    assert [status for status, _ in stranger.ask(asked)] == [200] * 4
    host.close()
    host.environment.update(STREAMSCALAR_TOKEN="another-" + TOKEN, STREAMSCALAR_ADMIN_TOKEN="another-" + ADMIN)
    host.start(*serve)
    wait_for("the service", lambda: stranger.ask([(host.address, 8870, "GET", "/ready", {})])[0][0] == 200)
    assert [status for status, _ in stranger.ask(asked)] == [401] * 4, "a new token ends old ones and their cookies"


def test_a_service_beyond_loopback_needs_a_token_of_its_own(idle: Hosts, tmp_path: Path) -> None:
    done = idle.head.run(*idle.head.streamscalar("serve", str(tmp_path), "--host", "0.0.0.0"))
    assert done.returncode == 2
    assert "STREAMSCALAR_TOKEN" in done.stderr


def _link_local(host: Host) -> str:
    done = host.run("ip", "-6", "-oneline", "address", "show", "dev", "eth0", "scope", "link")
    return done.stdout.split()[3].partition("/")[0] + "%eth0"
