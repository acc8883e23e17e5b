"""Failures of a tracked training: bad calls, lost stores, full disks, many processes."""

import copy
import json
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import streamscalar as ss
from streamscalar.config import Config, RunSetting
from streamscalar.config.models import PerturbationSection, TaskSection
from streamscalar.errors import BadCall
from streamscalar.missing import is_missing
from streamscalar.store import Store
from streamscalar.tracking import TrackingWarning, track
from streamscalar.tracking.channel import ring
from streamscalar.tracking.channel.messages import Facts, Open
from streamscalar.tracking.channel.ring import Ring
from streamscalar.tracking.worker.sink import StoreSink
from streamscalar.types import Layer, Layout
from tests.integration.tracking.test_tracking import batches, loss_of, mlp, patient, silence, train


def test_bad_arguments_are_bad_calls(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"name": "a/b"}, "name: must be letters"),
        ({"group": ".."}, "group: must be letters"),
        ({"every_n_steps": 0}, "every_n_steps: must be at least 1"),
        ({"probe": -1}, "probe: must be at least 1"),
        ({"max_overhead": 0.0}, "max_overhead: must be over 0"),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"resume": "maybe"}, "resume: must be never, allow or must"),
        ({"config": [1]}, "config: must be a mapping"),
        ({"tags": "one"}, "tags: must be a list of words"),
        ({"shadow": True}, "optimizer: must be given with shadow"),
        ({"tangent": True, "optimizer": optimizer}, "loss_fn: must be given"),
        ({"shadow": True, "optimizer": optimizer, "loss_fn": loss_of, "epsilon": 1e-12}, "only 0% of them would"),
        ({"tangent": True, "optimizer": optimizer, "loss_fn": loss_of, "probe": 9}, "probe: must be left out"),
        ({"tangent": True, "loss_fn": loss_of, "optimizer": torch.optim.RMSprop(model.parameters())}, "must be torch"),
    ]
    for arguments, message in bad:
        with pytest.raises(BadCall, match=message):
            track(model, store=tmp_path / "s", **arguments)
    assert not (tmp_path / "s").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(BadCall, match="is not a streamscalar store"):
        track(model, store=tmp_path / "other")


def test_an_address_that_does_not_answer_records_here(tmp_path: Path) -> None:
    model = mlp()
    with silence() as caught:
        run = track(model, name="a", store=tmp_path / "s", address="127.0.0.1:1")
        run.step(loss=1.0)
        run.finish()
    assert ["recorded on this machine alone" in str(w.message) for w in caught] == [True]
    assert ss.open(tmp_path / "s").run("a").steps().tolist() == [1]


def test_nothing_raises_into_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
    # Warnings are errors in this suite: these must not become exceptions either.
    run.step(step=-3)
    run.step(step="seven")  # type: ignore[arg-type]
    run.step(loss=object())
    assert "a step must be at least 0" in caplog.text
    assert "must be one number" in caplog.text
    assert run.finish().warnings == {"step": 2, "metric loss": 1}
    run.step(loss=1.0)
    assert run.finish().n_steps == 1


def test_a_deleted_store_only_warns(tmp_path: Path) -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    with silence() as caught:
        run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
        train(model, optimizer, batches(5), run)
        until = time.monotonic() + 30
        while run._ring.counts[Ring.STORED] < 5 and time.monotonic() < until:
            time.sleep(0.01)
        shutil.rmtree(tmp_path / "s")
        seen = train(model, optimizer, batches(10), run)
        summary = run.finish()
    assert len(seen) == 10
    assert summary.n_lost >= 9
    assert {type(w.message) for w in caught} == {TrackingWarning}
    assert summary.warnings.keys() == {"store", "finish"}


def test_a_full_disk_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The worker inherits a limit on the size of a file: the log of a segment outgrows it after some rows, and so would
    # a large ring.
    monkeypatch.setattr(ring, "MOST_SLOTS", 4)
    model = nn.Linear(500, 4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    row_bytes = 4 * 2004
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * row_bytes, before[1]))
    try:
        run = track(model, name="a", store=tmp_path / "s", every_n_steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with silence() as caught:
        for _ in range(20):
            patient(run)
            run.step(loss=1.0)
        summary = run.finish()
    assert summary.n_lost > 0
    assert "disk, the quota or the file size limit is exhausted" in str(caught[0].message)
    assert {type(w.message) for w in caught} == {TrackingWarning}
    reader = Store.open(tmp_path / "s").reader("a")
    assert reader.n_rows == 20 - summary.n_lost


def test_a_row_or_value_that_is_handed_over_again_is_stored_once(tmp_path: Path) -> None:
    layout = Layout((Layer("weight", 0, (5,)),), "float32", 0, has_control=False)
    config = Config(
        task=TaskSection(name="tracked"), perturbation=PerturbationSection(n_perturbed=0, control=False)
    ).identity()
    setting = RunSetting(learning_rate=None, epsilon=None, initial_condition=0)
    request = Open(str(tmp_path / "s"), config, {}, None, "a", True, "never", False, layout, setting, 0, 4)
    sink = StoreSink(lambda kind, text: pytest.fail(f"{kind}: {text}"))
    assert sink.open(request).run_id == "a"
    # As a run of an earlier version, whose rows may have any number of metrics.
    sink.begin(("loss", *(f"m{index}" for index in range(99))), None)
    entries = np.zeros(3, [("step", "<i8"), ("which", "<u4"), ("value", "<f8")])
    entries["value"] = [1.0, 2.0, 3.0]
    for first in (0, 0, 2):
        sink.log(first, (("val", 0),), entries)
    for step, value in ((1, 1.0), (1, 9.0), (4, 4.0), (2, 9.0), (5, 5.0)):
        sink.put(step, np.full((1, 5), value, np.float32), np.array([[value]]), Facts(0, 0, 0.0))
    sink.finish(Facts(0, 0, 0.0))
    reader = Store.open(tmp_path / "s").reader("a")
    assert reader.logged.entries().values.tolist() == [1.0, 2.0, 3.0, 2.0, 3.0]
    assert is_missing(reader.metrics("m98")).all()
    assert reader.steps().tolist() == [1, 4, 5]
    assert reader.weights()[:, 0, 0].tolist() == reader.metrics("loss")[:, 0].tolist() == [1.0, 4.0, 5.0]


SCRIPT = """
import json, sys, time
import torch
from streamscalar.tracking import track
torch.manual_seed(int(sys.argv[2]))
model = torch.nn.Linear(6, 5)
run = track(model, name="a", store=sys.argv[1], every_n_steps=1)
sums = []
for step in range(20):
    with torch.no_grad():
        model.weight.add_(0.1 * torch.randn(5, 6))
    while not run._link.free_slots():
        time.sleep(0.002)
    run.step(loss=model.weight.sum())
    sums.append(float(model.weight.sum()))
run.finish()
print(json.dumps([run.run_id, sums]))
"""


def test_processes_track_into_one_store_at_once(tmp_path: Path) -> None:
    store = tmp_path / "s"
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(store)]
    running = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for seed in range(3)
    ]
    told = []
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        told.append(json.loads(out))
    assert sorted(name for name, _ in told) == ["a", "a-2", "a-3"]
    for name, sums in told:
        stored = ss.open(store).run(name)
        assert stored.is_complete
        assert stored.steps().tolist() == list(range(1, 21))
        np.testing.assert_array_equal(stored.metrics("loss").values[:, 0], sums)


def test_a_forked_child_records_nothing(tmp_path: Path) -> None:
    script = f"""
import os, warnings, torch
warnings.simplefilter("ignore")
from streamscalar.tracking import track
run = track(torch.nn.Linear(3, 3), name="a", store={str(tmp_path / "s")!r}, every_n_steps=1)
run.step(loss=1.0)
child = os.fork()
if not child:
    run.step(loss=2.0)
    run.finish()
    os._exit(0)
os.waitpid(child, 0)
run.step(loss=3.0)
run.finish()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.metrics("loss").values[:, 0].tolist() == [1.0, 3.0]


def test_the_summary_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with track(mlp(), store=tmp_path / "s") as run:
        run.step()
    assert "run run: recorded 1 of 1 steps" in caplog.text


def test_an_exception_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    def training() -> None:
        with track(mlp(), name="a", store=tmp_path / "s") as run:
            run.step(loss=1.0)
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        training()
    status = Store.open(tmp_path / "s").status("a")
    assert status["phase"] == "failed"
    assert status["reason"] == "The training ended with RuntimeError: diverged"
    assert not ss.open(tmp_path / "s").run("a").is_complete


@pytest.mark.parametrize(
    ("end", "phase"), [("", "done"), ("raise SystemExit(0)", "done"), ("raise RuntimeError('lost')", "failed")]
)
def test_a_script_that_ends_by_itself_is_complete_and_a_crash_is_not(tmp_path: Path, end: str, phase: str) -> None:
    script = f"""
import torch
from streamscalar.tracking import track
def main():
    run = track(torch.nn.Linear(3, 3), name="a", store={str(tmp_path / "s")!r}, every_n_steps=1)
    for _ in range(3):
        run.step(loss=1.0)
main()
{end}
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=120, stderr=subprocess.DEVNULL)
    status = Store.open(tmp_path / "s").status("a")
    assert status["phase"] == phase
    stored = ss.open(tmp_path / "s").run("a")
    assert stored.steps().tolist() == [1, 2, 3]
    assert stored.is_complete is (phase == "done")
    if phase == "failed":
        assert status["reason"] == "The training ended with RuntimeError: lost"


def test_a_tracker_is_copied_with_its_owner_and_not_pickled(tmp_path: Path) -> None:
    run = track(mlp(), name="a", store=tmp_path / "s", every_n_steps=1)
    assert copy.deepcopy({"run": run})["run"] is run
    with pytest.raises(TypeError, match=r"call ss.track\(\) in that process"):
        pickle.dumps(run)
    run.finish()


BARE = """
import torch
from streamscalar.tracking import track
run = track(torch.nn.Linear(3, 3), name="é".encode().hex(), store={store!r}, every_n_steps=1)
for _ in range(3):
    run.step(loss=1.0)
run.finish()
"""


def test_a_process_with_closed_streams_and_a_bare_environment_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(BARE.format(store=f"file://{tmp_path}/a%20store"), "utf-8")
    path = os.environ.get("PYTHONPATH", "")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": path}
    # A file that the process opens gets the number of a closed stream.
    command = f"exec {sys.executable} train.py <&- >&- 2>&-"
    started_s = time.monotonic()
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=120, cwd=tmp_path, env=bare)
    assert time.monotonic() - started_s < 60
    run = ss.open(f"file://localhost{tmp_path}/a%20store").run("c3a9")
    assert run.steps().tolist() == [1, 2, 3]
    assert run.is_complete


def test_a_bucket_is_refused_before_the_training() -> None:
    for url, words in (("s3://bucket/a", "must be a folder of this machine"), ("file://host/a", "file:///folder")):
        with pytest.raises(BadCall, match=words):
            track(mlp(), store=url)


RANK = """
import sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
import streamscalar as ss
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
try:
    ss.track(model, name="a", store=sys.argv[3], optimizer=optimizer, shadow=True, loss_fn=lambda m, b: m(b).sum())
except ss.errors.BadCall as error:
    print("refused", error.where)
run = ss.track(model, name="a", store=sys.argv[3], optimizer=optimizer, every_n_steps=1)
generator = torch.Generator().manual_seed(rank)
for _ in range(10):
    loss = model(torch.randn(8, 4, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.step(loss=loss)
print(run.finish().n_recorded, [name for name, _ in model.module.named_parameters()])
torch.save(model.module.state_dict(), sys.argv[3] + f".{rank}")
distributed.destroy_process_group()
"""


def test_every_rank_calls_track_and_the_first_one_records(tmp_path: Path) -> None:
    words = [str(tmp_path / "meeting"), str(tmp_path / "s")]
    processes = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), *words], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=180)[0].splitlines() for process in processes]
    assert [lines[0] for lines in said] == ["refused shadow"] * 2
    assert [lines[1].split()[0] for lines in said] == ["10", "0"]
    store = Store.open(tmp_path / "s")
    assert store.run_ids() == ["a"]
    stored = ss.open(tmp_path / "s").run("a")
    assert [layer.name for layer in stored.layout.layers] == ["weight", "bias"]
    weights = [torch.load(f"{tmp_path / 's'}.{rank}") for rank in range(2)]
    assert torch.equal(weights[0]["weight"], weights[1]["weight"])
    np.testing.assert_array_equal(stored.weights(10)[0][:12], weights[0]["weight"].numpy().ravel())
