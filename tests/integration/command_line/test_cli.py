"""The commands as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import small_config
from tests.forkserver import forkserver


def streamscalar(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return forkserver().run(*arguments, cwd=cwd)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    config = small_config(folder / "store")
    (folder / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "streamscalar", "run", str(folder / "config.json"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [setting["learning_rate"] for setting in document["settings"]] == [1, 5]
    assert "4 runs, 164 rows" in done.stderr
    assert "4 of 4 runs done" in done.stderr
    return folder / "store"


def test_ls_show_and_analyze(store: Path) -> None:
    assert "lr5_ic1" in streamscalar("ls", store).stdout
    assert "store" in streamscalar("ls", store.parent).stdout
    entries = json.loads(streamscalar("ls", store, "--json").stdout)["entries"]
    assert [(entry["run"], entry["rows"], entry["exact"]) for entry in entries] == [
        (name, 41, True) for name in ("lr1_ic0", "lr5_ic0", "lr1_ic1", "lr5_ic1")
    ]
    shown = json.loads(streamscalar("show", store, "lr1_ic0", "--json").stdout)
    assert shown["exact"]["residual"] <= 1e-9
    assert shown["estimates"]["control_divergence"] == 0
    assert json.loads(streamscalar("show", store, "--json").stdout)["provenance"]["packages"]["zarr"]
    assert "regime" in streamscalar("analyze", store).stdout


def test_the_report_is_one_file_that_fetches_nothing(store: Path) -> None:
    path = store.parent / "page.html"
    assert streamscalar("report", store, "--output", path).stdout.strip() == str(path)
    page = path.read_text()
    assert page.count("<svg") >= 5
    for section in ("What can be concluded", "Config"):
        assert section in page
    assert not any(f'{attribute}="http' in page for attribute in ("src", "href"))


def test_figures_claims_and_export(store: Path, tmp_path: Path) -> None:
    done = streamscalar("report", store, "--output", tmp_path / "page.html", "--figures", tmp_path / "figures", "-q")
    assert done.returncode == 0, done.stderr
    kinds = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert kinds == {".png", ".pdf", ".csv", ".json"}
    claims = json.loads(streamscalar("claims", store, "--json").stdout)["claims"]
    assert {claim["verdict"] for claim in claims} <= {"reproduced", "refuted", "undecided"}
    assert "verdict" in streamscalar("claims", store, store).stdout
    written = streamscalar("export", store, "--output", tmp_path / "tables").stdout.split()
    frames = {Path(name).stem: pd.read_parquet(name) for name in written}
    assert len(frames["series"]) == 4 * 41 * 5
    assert frames["runs"]["nmle_status"].notna().all()
    assert len(frames["settings"]) == 2
    wrong = streamscalar("export", store, "--format", "xlsx")
    assert wrong.returncode == 2
    assert "--format: must be parquet or csv" in wrong.stderr


def test_digest_is_repeatable_and_verify_finds_a_flipped_byte(store: Path, tmp_path: Path) -> None:
    first = streamscalar("digest", store).stdout
    assert len(first.strip()) == 64
    assert streamscalar("digest", store).stdout == first
    assert "all checksums agree" in streamscalar("verify", store).stdout
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", store, copy], check=True)
    shard = sorted((copy / "runs" / "lr5_ic0" / "weights" / "deltas").glob("c.*"))[2]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    done = streamscalar("verify", copy, "--json")
    assert done.returncode == 1
    assert {finding["run"] for finding in json.loads(done.stdout)["findings"]} == {"lr5_ic0"}


def test_resume_of_a_finished_experiment_changes_nothing(store: Path) -> None:
    before = streamscalar("digest", store).stdout
    assert streamscalar("resume", store, "--executor", "inline", "--quiet").returncode == 0
    assert streamscalar("digest", store).stdout == before


def _sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "training.learning_rate=-1"], ["training.learning_rate", "-1"]),
        (["--set", "trainin.x=1"], ["trainin", "Did you mean training?"]),
        (["--set", "training.dtype=float32"], ["perturbation.epsilon", "of the weights would change", "1e-08"]),
        (["--set", "task.name=idx", "--set", "task.path=nowhere"], ["task.path", "t10k-images", "https://"]),
        (["--set", "recording.max_bytes=1000"], ["recording.max_bytes", "1,000"]),
        (["--executor", "ray", "--address", "127.0.0.1:1"], ["cluster.address", "127.0.0.1:1"]),
        (["--set", "training.n_steps=1000000000"], ["store.url", "free bytes", "recording.retain"]),
        (["--set", "training.device=cuda"], ["training.device", "cuda"]),
    ],
)
def test_bad_calls_are_one_sentence_and_write_nothing(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    store = tmp_path / "store"
    base = ["run", "--preset", "digits-sweep", "--store", str(store), "--quiet", "--executor", "inline"]
    text = _sentence(streamscalar(*base, *arguments, cwd=tmp_path))
    for word in words:
        assert word in text
    assert not store.exists()


def test_a_store_of_another_config_is_refused_and_unchanged(store: Path) -> None:
    before = streamscalar("digest", store).stdout
    config = store.parent / "config.json"
    text = _sentence(streamscalar("run", config, "--quiet", "--set", "training.n_steps=41"))
    assert "training.n_steps: stored 40, requested 41" in text
    assert streamscalar("digest", store).stdout == before


def test_what_is_no_store_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    for command in ("analyze", "digest", "verify", "resume", "show"):
        assert "is not a streamscalar store" in _sentence(streamscalar(command, tmp_path))
    assert "not empty" in _sentence(
        streamscalar("run", "--preset", "digits-sweep", "--quiet", "--executor", "inline", "--store", tmp_path)
    )


def test_a_newer_schema_is_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", store, copy], check=True)
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["schema_version"] = 99
    (copy / "zarr.json").write_text(json.dumps(document))
    text = _sentence(streamscalar("analyze", copy))
    assert "schema version 1" in text
    assert "99" in text


def test_help_teaches(tmp_path: Path) -> None:
    text = streamscalar("--help", cwd=tmp_path).stdout
    assert "streamscalar demo" in text
    for command in ("demo", "run", "resume", "ls", "show", "analyze", "report", "verify", "digest", "config", "bench"):
        assert command in text
    schema = json.loads(streamscalar("config", "schema").stdout)
    assert (
        schema["$defs"]["TrainingSection"]["properties"]["n_steps"]["description"]
        == "Number of updates (optimiser steps) per run."
    )
