"""The alerts of real trainings."""

from pathlib import Path

from streamscalar.analysis.alerts import RunWatch, watch_group
from streamscalar.analysis.estimator_options import Options
from tests.conftest import Truth, small_config

OPTIONS = Options(accuracy_target=0.9)


def test_real_training_raises_what_it_does_on_every_prefix(truth: Truth) -> None:
    # Regular, chaotic for a while, and diverging.
    training = {"learning_rate": [0.5, 2.5, 12], "n_steps": 120}
    trained = truth(small_config(Path("unused"), model={"widths": [32]}, training=training))
    found: dict[float, list[str]] = {}
    for run in trained.runs.values():
        whole = run.series()
        alerts = sorted(RunWatch(options=OPTIONS).update(whole), key=lambda alert: (alert.row, alert.rule))
        found.setdefault(whole.learning_rate, []).extend(alert.rule for alert in alerts)
        by_row = RunWatch(options=OPTIONS)
        # As a live reader sees it: the embedding of that time, in the basis of that time.
        live = [alert for n in range(1, 122, 3) for alert in by_row.update(run.series(n))]
        assert [*live, *by_row.update(whole)] == alerts
    assert found == {0.5: [], 2.5: ["became_chaotic"] * 2, 12.0: ["diverged"] * 2}
    assert watch_group([run.series() for run in trained.runs.values()]) is not None
