"""A disk that fills up mid-run."""

import subprocess
import sys
from pathlib import Path

from streamscalar.runtime import run
from streamscalar.store import Store, verify
from tests.conftest import Truth, small_config

# The smallest file that does not fit is a shard: 16 rows of 24 kB.
LIMIT_KIB = 200


def test_acknowledged_rows_stay_and_a_resume_ends_at_the_same_digest(tmp_path: Path, truth: Truth) -> None:
    store = tmp_path / "store"
    config = small_config(store, store={"segment_rows": 16})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = f"{sys.executable} -m streamscalar run {tmp_path}/config.json --quiet"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {LIMIT_KIB}; {command}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "exhausted; every acknowledged row is kept" in done.stderr
    reader = Store.open(store).reader("lr1_ic0")
    n_kept = reader.n_rows
    assert 0 < n_kept < 41
    kept = reader.weights()
    assert run(config).digest() == truth(config).digest()
    assert reader.weights(0, n_kept).tobytes() == kept.tobytes()
    assert list(verify(Store.open(store))) == []
