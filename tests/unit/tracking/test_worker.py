"""The worker process starts without what it does not need."""

import subprocess
import sys


def test_a_worker_imports_no_torch_and_no_ray() -> None:
    script = "import sys, streamscalar.tracking.worker.main; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
