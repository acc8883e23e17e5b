"""Log lines: their fields, and what cannot break them."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streamscalar.config import Config, plan_packs
from streamscalar.config.log_settings import log_format
from streamscalar.errors import BadCall, Fenced
from streamscalar.logs import FIELDS, JsonLines, TextLines, set_up_logs
from streamscalar.runtime.inline import run_inline
from streamscalar.store import Store
from streamscalar.workers.embedder import Embedder
from streamscalar.workers.trainer import Trainer
from tests.conftest import small_config

FORGED = 'boom\n2026-11-25T00:00:00.000Z ERROR streamscalar: forged\r\u2028\u0085\x1b[31m\u202e"}\n{"level": "ERROR"}'


def _one_run(folder: Path, n_steps: int) -> tuple[Config, Store]:
    training, experiment = {"learning_rate": 1, "n_steps": n_steps}, {"n_initial_conditions": 1}
    config = small_config(folder / "s", training=training, experiment=experiment)
    return config, Store.create(config.store_path, config.identity(), {})


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "streamscalar.test", "levelname": "INFO", "msg": message, "created": 1.5, **extra}
    )


def test_a_json_line_holds_what_applies_and_nothing_else() -> None:
    line = JsonLines({"node": "n1", "experiment": "a"}).format(
        record("row stored", run="lr1_ic0", attempt=2, row=np.int64(7), secret="hidden", experiment="b")
    )
    document = json.loads(line)
    assert document == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "INFO",
        "logger": "streamscalar.test",
        "message": "row stored",
        "experiment": "b",
        "run": "lr1_ic0",
        "attempt": 2,
        "row": 7,
        "node": "n1",
    }
    assert list(document)[:4] == ["time", "level", "logger", "message"]


@pytest.mark.parametrize("where", ["message", "argument", "field"])
def test_what_comes_from_outside_cannot_begin_a_line(where: str) -> None:
    poor = {
        "message": record(FORGED),
        "argument": record("run %s", args=(FORGED,)),
        "field": record("failed", reason=FORGED, run=FORGED),
    }[where]
    line = JsonLines({}).format(poor)
    assert line.isascii()
    assert "\n" not in line
    assert FORGED in (json.loads(line)["message"] if where == "message" else f"{json.loads(line)}{FORGED}")
    text = TextLines({}).format(poor)
    assert text.isprintable()
    assert len(text.splitlines()) == 1
    assert r"boom\n2026" in text


def test_an_exception_stays_in_its_line_or_is_indented() -> None:
    try:
        int(FORGED)
    except ValueError:
        poor = record("failed", exc_info=sys.exc_info())
    assert repr(FORGED) in json.loads(JsonLines({}).format(poor))["exception"]
    first, *rest = TextLines({}).format(poor).splitlines()
    assert first.endswith("streamscalar.test: failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_a_wrong_format_is_one_sentence() -> None:
    assert [log_format({}), log_format({"STREAMSCALAR_LOG": ""}), log_format({"STREAMSCALAR_LOG": "text"})] == [
        None,
        None,
        "text",
    ]
    with pytest.raises(BadCall, match=r"^STREAMSCALAR_LOG: must be json or text; got 'xml'\. Or unset it\.$"):
        log_format({"STREAMSCALAR_LOG": "xml"})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Log as JSON into a buffer, and take it back afterwards."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    set_up_logs("json", node="here")
    yield written
    set_up_logs(None)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if type(handler).__name__ != "_Silence"]
    for name in ("streamscalar", "streamscalar_services"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_ours_from_info_on_and_others_from_warnings_on(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", lines)
    set_up_logs("json", node="there")
    logging.getLogger("streamscalar.store").info("ours")
    logging.getLogger("elsewhere").info("theirs")
    logging.getLogger("elsewhere").warning("theirs, grave")
    documents = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(found["message"], found["node"]) for found in documents] == [("ours", "there"), ("theirs, grave", "there")]


def test_the_life_of_a_run_is_told(lines: io.StringIO, tmp_path: Path) -> None:
    """Interrupted at row 80, resumed from the key frame at row 64, finished, solved."""
    config, store = _one_run(tmp_path, 100)
    stops = iter([False] * 80 + [True])
    Trainer(str(store.path), config).train(plan_packs(config)[0], lambda *_: None, lambda: next(stops))
    run_inline(config, store, lambda _: None)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {found["experiment"] for found in told} == {"small"}
    assert {found.get("run") for found in told} == {"lr1_ic0"}
    of_trainer = [(found["message"], found["attempt"], found["row"]) for found in told if "trainer" in found["logger"]]
    assert of_trainer == [
        ("training started", 1, 0),
        ("training stopped", 1, 80),
        ("training resumed", 2, 64),
        ("training finished", 2, 101),
    ]
    of_embedder = [(found["message"], found["row"]) for found in told if "embedder" in found["logger"]]
    assert of_embedder == [("embedding opened", 0), ("exact solution stored after 13 refits", 101)]


def test_a_fenced_trainer_and_embedder_say_so(lines: io.StringIO, tmp_path: Path) -> None:
    config, store = _one_run(tmp_path, 40)
    embedder = Embedder(str(store.path), config.embedding, "none")

    def overtaken(run_id: str, first_row: int, weights: NDArray[np.floating]) -> None:
        embedder.embed(run_id, first_row, weights)
        store.weights_writer(run_id, "none").close()
        store.embedding_writer(run_id, "none")

    with pytest.raises(Fenced):
        Trainer(str(store.path), config).train(plan_packs(config)[0], overtaken, lambda: False)
    reader = store.reader("lr1_ic0")
    with pytest.raises(Fenced):
        embedder.embed("lr1_ic0", 8, reader.weights(8, 10))
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    fenced = [(found["logger"].rsplit(".", 1)[1], found["attempt"]) for found in told if found["level"] == "WARNING"]
    assert fenced == [("trainer", 1), ("embedder", 1)]
    assert "attempt 2 owns the stream" in told[-1]["reason"]


def test_the_page_describes_exactly_the_fields_of_a_line() -> None:
    page = (Path(__file__).parents[2] / "deploy" / "observability.md").read_text("utf-8")
    table = page.split("| field | holds |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        "time",
        "level",
        "logger",
        "message",
        *FIELDS,
        "exception",
    ]
