"""What distinguishes the settings of tracked runs, apart from learning rate and epsilon: only equal ones are pooled."""

import hashlib
from collections.abc import Mapping

from streamscalar.config import RunSetting
from streamscalar.types import Layout

RATES = ("learning_rate", "lr")
LABELS = ("name", "run_name", "run_id", "output_dir", "logging_dir", "timestamp")
"""Keys of a config that name a run instead of setting it."""


def variants_of(runs: Mapping[str, tuple[RunSetting, Layout]]) -> dict[str, str]:
    """Return for each run what of its architecture and its `config` differs within the experiment, in words.

    Learning rates, seeds and labels are left out: runs that differ in seeds are repeats. Runs that streamscalar trains
    differ in nothing else, and get an empty text.

    Examples
    --------
    >>> layout = Layout((), "float32", 0, has_control=False)
    >>> settings = {
    ...     name: RunSetting(is_tracked=True, config={"hidden": hidden, "seed": seed})
    ...     for name, hidden, seed in (("a", 4, 0), ("b", 64, 1))
    ... }
    >>> variants_of({name: (setting, layout) for name, setting in settings.items()})
    {'a': 'hidden=4', 'b': 'hidden=64'}
    """
    facts = {run_id: _facts(*run) for run_id, run in runs.items()}
    names = sorted({name for of_run in facts.values() for name in of_run})
    different = [name for name in names if len({of_run.get(name, "absent") for of_run in facts.values()}) > 1]
    return {
        run_id: ", ".join(f"{name}={of_run.get(name, 'absent')}" for name in different)
        for run_id, of_run in facts.items()
    }


def _facts(setting: RunSetting, layout: Layout) -> dict[str, str]:
    if not setting.is_tracked:
        return {}
    shapes = repr([(layer.name, layer.shape) for layer in layout.layers])
    mark = hashlib.sha256(shapes.encode()).hexdigest()[:6]
    own = {
        str(name): str(value)
        for name, value in setting.config.items()
        if name not in RATES + LABELS and "seed" not in str(name).lower()
    }
    return {"architecture": f"{layout.n_parameters:,} parameters ({mark})", **own}
