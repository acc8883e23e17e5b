"""Local exponents along training, of one run per regime."""

from collections.abc import Mapping, Sequence

from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.numerics.exponents.local import LocalExponents, local_exponents
from streamscalar.report.figures.drawing import COLOURS, DASHES, Drawing, new_figure, style
from streamscalar.types import Regime

NAME = "local-exponents"
WIDTH_ROWS = 10


def local_figure(
    shown: Mapping[str, RunSeries], runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]
) -> Drawing:
    """Return the exponent in sliding windows over steps, of the middle run of each regime among those in `shown`."""
    regimes = {setting.key: setting.regime for setting in settings}
    by_regime: dict[Regime, list[tuple[RunEstimates, LocalExponents]]] = {}
    reason = "No run has started."
    for run in runs:
        if run.run_id in shown:
            series = shown[run.run_id]
            found = local_exponents(series.steps, series.perturbed("l1"), WIDTH_ROWS)
            if found.is_ok:
                by_regime.setdefault(regimes[run.key], []).append((run, found))
            else:
                reason = f"No run has a window of {WIDTH_ROWS} rows: {found.message}"
    if not by_regime:
        return Drawing(NAME, reason)
    with style():
        figure = new_figure(3.8)
        axis = figure.subplots()
        axis.axhline(0.0, color="#444444", lw=0.8)
        for regime in Regime:
            if regime in by_regime:
                run, found = by_regime[regime][len(by_regime[regime]) // 2]
                label = f"{regime}: lr {run.learning_rate:g}"
                axis.plot(found.steps, found.values, color=COLOURS[regime], ls=DASHES[regime], lw=1.6, label=label)
                if found.spread is not None:
                    band = found.values - found.spread, found.values + found.spread
                    axis.fill_between(found.steps, *band, color=COLOURS[regime], alpha=0.2, lw=0)
        axis.set(xlabel="step", ylabel="local exponent per step")
        axis.margins(x=0.01)
        figure.legend(loc="outside upper center", ncols=len(by_regime), handlelength=2.8)
    text = (
        f"Exponent of the L1 distance in sliding windows of {WIDTH_ROWS} rows over training steps, one run per regime, "
        f"with its standard error over replicas: positive while replicas separate, 0 after saturation, negative while "
        f"they approach."
    )
    return Drawing(NAME, text, figure)
