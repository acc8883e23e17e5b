"""The tables of a report, as HTML."""

import html
from collections.abc import Sequence

from streamscalar.analysis.claims import ClaimResult
from streamscalar.analysis.quantities import QUANTITIES, keys
from streamscalar.analysis.run import RunEstimates
from streamscalar.analysis.setting_estimates import SettingEstimates
from streamscalar.analysis.table import Table
from streamscalar.report.figures.spacing_laws import most_spaced
from streamscalar.report.phrases import interval, label
from streamscalar.types import Estimate, Status

ALWAYS = frozenset({"positive_fraction", "ftle", "nmle", "nmle_embedded", "nmle_random_direction"})
"""Columns that stay where no setting has a value: their absence is a finding."""


def settings_table(table: Table) -> str:
    """Return one row per setting; a column without any value is left out unless it is in `ALWAYS`."""
    shown = [
        key
        for key in keys("setting")
        if key in ALWAYS or any(setting.estimates[key].is_ok for setting in table.settings)
    ]
    has_ladder = len({setting.epsilon for setting in table.settings}) > 1
    head = "".join(
        f"<th scope=col>{title}</th>"
        for title in (
            "learning rate",
            *(["epsilon"] if has_ladder else []),
            "regime",
            "runs",
            *(QUANTITIES[key].short for key in shown),
        )
    )
    lines = "".join(_setting(setting, shown, has_ladder) for setting in table.settings)
    return _scrolling(f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>", "settings") + _reasons(table, shown)


def _reasons(table: Table, shown: Sequence[str]) -> str:
    """Return the tooltips of the cells as a collapsed list, as touch screens show no tooltips."""
    items = ""
    for setting in table.settings:
        missing = "; ".join(
            f"{QUANTITIES[name].short}: {html.escape(estimate.message or estimate.status)}"
            for name in shown
            if not (estimate := setting.estimates[name]).is_ok
        )
        items += (
            f"<li><b>lr {setting.learning_rate:g}, epsilon {setting.epsilon:g}</b>: "
            f"{html.escape(setting.regime_reason)} {missing}</li>"
        )
    return f"<details><summary>Why each regime, and why a number is missing</summary><ul>{items}</ul></details>"


def claims_table(judged: Sequence[ClaimResult]) -> str:
    """Return one row per claim."""
    lines = "".join(
        f"<tr><td>{html.escape(claim.claim)}</td><td>{html.escape(claim.source)}</td>"
        f"<td>{html.escape(claim.found)}</td><td><b class='{claim.verdict}'>{claim.verdict}</b></td></tr>"
        for claim in judged
    )
    return _scrolling(_head("claim", "source", "found here", "verdict") + f"<tbody>{lines}</tbody>", "claims")


def laws_table(table: Table) -> str:
    """Return the candidate laws of the settings with most spacings by rising AIC, with bands of independent draws."""
    parts = []
    for setting in most_spaced(table.settings):
        fits = setting.spacings.fits.fits
        null = setting.spacings.null
        lines = ""
        for fit in fits:
            values = ", ".join(f"{name} {value:.3g}" for name, value in fit.parameters.items())
            mark = "" if fit.status is Status.OK else f" <span class=status>({html.escape(fit.message)})</span>"
            lines += (
                f"<tr><td>{html.escape(fit.name)}{mark}</td><td>{values}</td><td>{fit.aic - fits[0].aic:.1f}</td>"
                f"<td title='{html.escape(fit.ks_method, quote=True)}'>{fit.ks:.3f} (p ≤ {fit.ks_p_value:.2g})</td>"
                "</tr>"
            )
        if null is not None:
            bands = ", ".join(f"{n} {null.median[n]:.3g} [{null.low[n]:.3g}, {null.high[n]:.3g}]" for n in null.median)
            lines += (
                f"<tr><td>skew lognormal of independent draws</td><td colspan=3>{bands} "
                f"({null.confidence:.0%} band)</td></tr>"
            )
        head = _head(f"law at {label(setting, table)}", "parameters", "AIC above the best", "KS distance")
        parts.append(_scrolling(f"{head}<tbody>{lines}</tbody>", "laws"))
    return "".join(parts)


def methods_table(runs: Sequence[RunEstimates], settings: Sequence[SettingEstimates]) -> str:
    """Return one row per estimate: its name, its method in a run and over a setting, and its publication."""
    lines = ""
    for name in keys("setting"):
        quantity = QUANTITIES[name]
        single = _method([run.estimates[name] for run in runs if name in run.estimates])
        joint = _method([setting.estimates[name] for setting in settings])
        lines += (
            f"<tr><td>{quantity.short}<br><code>{name}</code></td><td>{html.escape(single or '-')}</td>"
            f"<td>{html.escape(joint or '-')}</td><td>{html.escape(quantity.reference)}</td></tr>"
        )
    head = _head("quantity", "in one run", "over initial conditions", "source")
    return _scrolling(f"{head}<tbody>{lines}</tbody>", "methods")


def _method(estimates: Sequence[Estimate]) -> str:
    """Return the method of the first estimate with a number, otherwise of the first."""
    found = sorted(estimates, key=lambda estimate: not estimate.is_ok)
    return found[0].method if found else ""


def _setting(setting: SettingEstimates, shown: Sequence[str], has_ladder: bool) -> str:
    reason = html.escape(setting.regime_reason, quote=True)
    epsilon = f"<td>{setting.epsilon:g}</td>" if has_ladder else ""
    cells = "".join(_cell(setting.estimates[name]) for name in shown)
    return (
        f"<tr><th scope=row>{setting.learning_rate:g}</th>{epsilon}<td class='{setting.regime}' title='{reason}'>"
        f"{setting.regime}</td><td>{setting.n_runs}</td>{cells}</tr>"
    )


def _cell(estimate: Estimate) -> str:
    note = html.escape(" ".join(part for part in (estimate.message, f"n = {estimate.n}.") if part), quote=True)
    if estimate.value is None:
        return f"<td class=status title='{note}'>{estimate.status.words}</td>"
    return f"<td title='{note}'>{interval(estimate).replace(' [', '<br><small>[')}{_close(estimate)}</td>"


def _close(estimate: Estimate) -> str:
    return "" if estimate.low is None or estimate.high is None else "</small>"


def _head(*titles: str) -> str:
    return f"<thead><tr>{''.join(f'<th scope=col>{title}</th>' for title in titles)}</tr></thead>"


def _scrolling(body: str, name: str) -> str:
    return f"<div class=scroll tabindex=0><table class={name}>{body}</table></div>"
