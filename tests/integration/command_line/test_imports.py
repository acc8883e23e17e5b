"""What a fresh Python loads with the package, and what it does not load until it is needed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("streamscalar", "torch ray zarr numpy pydantic"),
        # Lightning loads it in every program with a Trainer; what tracks is loaded when one starts.
        ("streamscalar.integrations.lightning", "streamscalar.tracking.start pydantic zarr keras accelerate"),
        ("streamscalar.tracking.start", "lightning keras accelerate transformers ray wandb mlflow"),
        # Every tracked training starts one.
        ("streamscalar.tracking.worker.main", "torch ray wandb mlflow trackio tensorboard"),
        # Every Ray actor imports it; torch and the estimators are for those that need them.
        ("streamscalar.runtime.ray.actors", "torch scipy.stats matplotlib"),
        ("streamscalar.experiment", "torch scipy.stats ray pandas matplotlib sklearn"),
        ("streamscalar.runtime.launch", "scipy.stats ray pandas matplotlib sklearn"),
        ("streamscalar.workers.embedder", "torch scipy.stats ray"),
        ("streamscalar.workers.coordinator", "torch scipy.stats ray"),
    ],
)
def test_an_import_loads_no_large_package(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & set(absent.split())


def test_an_integration_without_its_package_names_the_command_that_installs_it() -> None:
    code = """
import sys
from importlib import import_module
packages = {"huggingface": "transformers", "lightning": "lightning", "accelerate": "accelerate", "keras": "keras"}
sys.modules.update(dict.fromkeys((*packages.values(), "pytorch_lightning")))
for extra in packages:
    try:
        import_module(f"streamscalar.integrations.{extra}")
    except ModuleNotFoundError as error:
        print(error.name, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f'{package} streamscalar.integrations.{extra} needs {package}. Run: pip install "streamscalar[{extra}]"'
        for extra, package in (
            *(("huggingface", "transformers"), ("lightning", "lightning")),
            *(("accelerate", "accelerate"), ("keras", "keras")),
        )
    ]
