"""Unchanged scripts under `track-script`: what they see, print and end with is what Python gives them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import streamscalar as ss
from streamscalar.cli.commands import app
from streamscalar.errors import BadCall
from streamscalar.integrations.script import run_script
from streamscalar.store import Store

TRAINING = '''
"""Trains a generator against a critic, from a module beside it."""
import argparse, json, pickle, sys
import numpy as np
import torch
from torch import nn
from parts import network


class Task(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.critic = network(4, 12), network(4, 3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--name")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    task = Task()
    critic = torch.optim.SGD(task.critic.parameters(), lr=0.1)
    optimizer = torch.optim.Adam(task.generator.parameters(), lr=0.01)
    weights = []
    for _ in range(arguments.epochs):
        for _ in range(2):
            critic.zero_grad()
            task.critic(torch.randn(8, 4)).square().mean().backward()
            critic.step()
        optimizer.zero_grad()
        task.generator(torch.randn(8, 4)).square().mean().backward()
        nn.utils.clip_grad_norm_(task.generator.parameters(), 0.1)
        optimizer.step()
        weights.append(nn.utils.parameters_to_vector(task.generator.parameters()).detach().numpy().copy())
    np.save(arguments.name, np.stack(weights))
    print(json.dumps({
        "argv": sys.argv, "path": sys.path[0], "file": __file__, "name": __name__, "doc": __doc__, "spec": __spec__,
        "task": type(pickle.loads(pickle.dumps(task))) is Task is sys.modules["__main__"].Task,
        "package": __package__, "names": sorted(globals()),
    }))
    sys.exit(3)


if __name__ == "__main__":
    main()
'''

PARTS = """
from torch import nn

def network(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, 8), nn.Dropout(0.1), nn.Linear(8, n_out))
"""


def test_a_training_is_recorded_and_keeps_its_bits(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(TRAINING)
    (folder / "parts.py").write_text(PARTS)
    words = ["code/train.py", "--epochs", "12", "--name"]
    tracked = ["-m", "streamscalar", "track-script", "--name", "a", "--group", "trials", "--every-n-steps", "1"]
    both = [
        subprocess.Popen(
            [sys.executable, *command, *words, name], stdout=-1, stderr=-1, text=True, cwd=tmp_path, env=environment()
        )
        for command, name in (([], "plain.npy"), (tracked, "tracked.npy"))
    ]
    (plain, _), (seen, said) = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [3, 3], said
    assert seen.replace("tracked.npy", "plain.npy") == plain
    weights = np.load(tmp_path / "tracked.npy")
    np.testing.assert_array_equal(weights, np.load(tmp_path / "plain.npy"))
    run = ss.open(tmp_path / "streamscalar-runs/trials").run("a")
    assert run.steps().tolist() == list(range(1, 13))
    for step in range(1, 13):
        np.testing.assert_array_equal(run.weights(step)[0], weights[step - 1])
    assert run.setting["learning_rate"] == 0.01
    assert [layer.name for layer in run.layout.layers] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    status = Store.open(tmp_path / "streamscalar-runs/trials").status("a")
    assert (status["phase"], status["reason"]) == ("failed", "The training ended with SystemExit: 3")
    assert said.splitlines() == [
        "streamscalar: run a records Sequential with 148 parameters, updated by Adam; "
        "4 tensors of other optimizers are not recorded",
        said.splitlines()[-1],
    ]
    assert said.splitlines()[-1].startswith("streamscalar: run a: recorded 12 of 12 steps")


def environment() -> dict[str, str]:
    """Return an environment in which two processes compute the same."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "end",
    [
        "def f():\n    raise ValueError('no data')\nf()",
        "import sys\nsys.exit('no data')",
        "raise SystemExit",
        "def f(:",
        "import sys\nsys.excepthook = lambda kind, error, trace: print('own', error)\n1 / 0",
    ],
)
def test_a_script_ends_as_under_python(tmp_path: Path, end: str, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "ends.py"
    script.write_text(f"print('begins')\n{end}\n" if "(:" not in end else end)
    python = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    before = sys.excepthook, sys.modules["__main__"], list(sys.path), list(sys.argv)
    said: list[str] = []
    try:
        assert run_script(script, [], {}, said.append) == python.returncode
    finally:
        sys.excepthook = before[0]
    assert capfd.readouterr() == (python.stdout, python.stderr)
    assert (sys.modules["__main__"], sys.path, sys.argv) == before[1:]
    assert said == ["nothing is recorded: no optimizer of torch made an update in this process"]


def test_what_cannot_be_recorded_is_said_and_the_training_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "scale = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))\n"
        "optimizer = torch.optim.SGD([scale], lr=0.5)\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    scale.abs().sum().backward()\n"
        "    optimizer.step()\n"
        "print(scale.detach().real.tolist())\n"
    )
    said: list[str] = []
    # One of an earlier training in this process.
    earlier = torch.optim.SGD(torch.nn.Linear(50, 50).parameters(), lr=0.1)
    assert run_script(script, [], {"store": tmp_path / "s"}, said.append) == 0
    del earlier
    assert capfd.readouterr().out == "[0.0, 0.0]\n"
    assert len(said) == 1
    assert said[0].startswith("nothing is recorded: model: must have dense, real parameters")


def test_a_larger_optimizer_that_makes_no_update_is_not_waited_for_long(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "head, whole = torch.nn.Linear(2, 1), torch.nn.Linear(9, 9)\n"
        "optimizer, later = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (head, whole))\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    head(torch.ones(2)).sum().backward()\n"
        "    optimizer.step()\n"
    )
    said: list[str] = []
    assert run_script(script, ["5"], {"store": tmp_path / "s"}, said.append) == 0
    assert said == ["nothing is recorded: the largest optimizer of torch never made an update in this process"]
    options = {"store": tmp_path / "s", "name": "a", "every_n_steps": 1}
    assert run_script(script, ["14"], options, said.append) == 0
    assert (
        said[1]
        == "run a records Linear with 3 parameters, updated by SGD; 2 tensors of other optimizers are not recorded"
    )
    assert ss.open(tmp_path / "s").run("a").steps().tolist() == [11, 12, 13, 14]


def test_a_script_that_is_not_there_and_a_wrong_name_are_refused_before_anything_runs(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["track-script", "--name", "a b", str(tmp_path / "none.py")])
    assert isinstance(ended.exception, BadCall)
    assert str(ended.exception).startswith("name: must be letters, digits")
    with pytest.raises(BadCall, match="SCRIPT: must be the path of a Python file"):
        run_script(tmp_path, [], {}, print)
