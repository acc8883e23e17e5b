"""The package as a whole."""

import subprocess
import sys


def test_import_needs_no_torch_ray_or_zarr() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import streamscalar; s = time.perf_counter() - t;"
        "assert not {'torch', 'ray', 'zarr', 'numpy'} & set(sys.modules); print(s)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5
