"""One self-contained HTML file: figures, table, provenance."""

import html
import json
from pathlib import Path

from streamscalar.experiment import Experiment
from streamscalar.report.figures import divergence_figure, embedding_figure, exponent_figure
from streamscalar.types import Estimate

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem;margin-bottom:0} h2{font-size:1.1rem;margin-top:2rem} svg{max-width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:.85rem} td,th{padding:.3rem .5rem;text-align:left;
border-bottom:1px solid #ddd} .regular{color:#2a9d8f}.onset{color:#b97a10}.chaotic{color:#d1495b}
.diverged{color:#7b2d8b}.status{color:#888} pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:.75rem}
"""
COLUMNS = {
    "ftle": "FTLE",
    "nmle": "nMLE, weights",
    "nmle_embedded": "nMLE, scalar",
    "nmle_random_direction": "nMLE, random direction",
    "positive_fraction": "share positive",
    "steps_to_accuracy": "steps to target",
    "explained_variance": "explained variance",
}


def write_report(experiment: Experiment, path: Path) -> None:
    """Write the report of what is stored now to `path`."""
    table = experiment.analyze()
    runs = list(experiment.runs.values())
    series = [run.series() for run in runs]
    target = experiment.config.task.accuracy_target
    epsilons = ", ".join(f"{epsilon:g}" for epsilon in experiment.config.perturbation.epsilon)
    name = html.escape(experiment.config.experiment.name)
    head = "".join(f"<th>{title}</th>" for title in COLUMNS.values())
    lines = "".join(
        f"<tr><td>{s.learning_rate:g}</td><td class={s.regime} title='{html.escape(s.regime_reason, quote=True)}'>"
        f"{s.regime}</td>{''.join(_cell(s.estimates[key]) for key in COLUMNS)}</tr>"
        for s in table.settings
    )
    facts = json.dumps({"config": experiment.store.config, "provenance": experiment.store.provenance}, indent=1)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{STYLE}</style>"
        f"<h1>{name}</h1><p>{len(runs)} runs at {len(table.settings)} settings; perturbation {epsilons}. Exponents are "
        f"per step; brackets hold the interval over initial conditions.</p>"
        f"<h2>What each learning rate does</h2>"
        f"<table><tr><th>learning rate</th><th>regime</th>{head}</tr>{lines}</table>"
        f"<h2>Exponents and speed</h2>{exponent_figure(table.settings, target)}"
        f"<h2>How replicas drift apart</h2>{divergence_figure(series, table.settings)}"
        f"<h2>The scalar embedding</h2><p>Reference in black, perturbed replicas in colour; first initial "
        f"condition of each learning rate.</p>{embedding_figure(runs, table.settings)}"
        f"<h2>Config and provenance</h2><pre>{html.escape(facts)}</pre></html>\n"
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, "utf-8")
    partial.replace(path)


def _cell(estimate: Estimate) -> str:
    note = html.escape(estimate.message, quote=True)
    if estimate.value is None:
        return f"<td class=status title='{note}'>{estimate.status.replace('_', ' ')}</td>"
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"<td title='{note}'>{estimate.value:.3g}{interval}</td>"
