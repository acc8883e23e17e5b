"""An experiment as plain tables, for notebooks and other tools."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from streamscalar.experiment import Experiment, Run
from streamscalar.missing import is_missing
from streamscalar.store import Place, medium_of
from streamscalar.types import DISTANCES

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["parquet", "csv"]
FORMATS: tuple[Format, ...] = ("parquet", "csv")


def export(experiment: Experiment, folder: Place, form: Format) -> list[Place]:
    """Write the tables `settings`, `runs`, `series` and `metrics` of what is stored now; return the files.

    `settings` and `runs` have one row per setting and per run: each estimate as value, `_low`, `_high`, `_n` and
    `_status`. `series` has one row per run, step and replica: scalar, metrics of the rows and distances. `metrics` has
    one row per value of a metric, with the step that it was reported for.
    """
    import pandas as pd

    table = experiment.analyze()
    medium_of(folder).make_folder(folder)
    series = [run_frame(run) for run in experiment.runs.values()]
    frames = {
        "settings": table.to_pandas(),
        "runs": table.runs_to_pandas(),
        "series": pd.concat(series, ignore_index=True) if series else pd.DataFrame(),
        "metrics": pd.concat([metrics_frame(run) for run in experiment.runs.values()] or [pd.DataFrame()]),
    }
    return [_write(frame, folder / f"{name}.{form}", form) for name, frame in frames.items()]


def run_frame(run: Run) -> "pd.DataFrame":
    """Return one row per recorded step and replica; replica 0 is the reference."""
    import pandas as pd

    series = run.series()
    n_rows, n_replicas = len(series.steps), run.layout.n_replicas
    columns: dict[str, object] = {
        "run_id": run.run_id,
        "learning_rate": series.learning_rate,
        "epsilon": series.epsilon,
        "initial_condition": series.initial_condition,
        "step": series.steps.repeat(n_replicas),
        "replica": list(range(n_replicas)) * n_rows,
        "scalar": series.scores[..., 0].ravel(),
    }
    columns |= {name: values.ravel() for name, values in series.metrics.items()}
    columns |= {f"divergence_{name}": abs(series.divergence[name]).ravel() for name in DISTANCES}
    return pd.DataFrame(columns)


def metrics_frame(run: Run) -> "pd.DataFrame":
    """Return one row per value of a metric: run, name, step, replica and value."""
    import pandas as pd

    parts = []
    for name in run.metric_names:
        series = run.logged(name)
        rows, replicas = np.nonzero(~is_missing(series.values.astype(np.float64, copy=False)))
        columns = {"step": series.steps[rows], "replica": replicas, "value": series.values[rows, replicas]}
        # Files of tables have no lone surrogates.
        text = name.encode("utf-8", "backslashreplace").decode()
        parts.append(pd.DataFrame({"run_id": run.run_id, "name": text, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _write(frame: "pd.DataFrame", path: Place, form: Format) -> Place:
    data = frame.to_parquet(index=False) if form == "parquet" else frame.to_csv(index=False).encode()
    medium_of(path).write(path, data)
    return path
