"""The report as one self-contained HTML file: conclusions, figures, tables, claims and provenance."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from streamscalar.analysis.claims import judge_claims
from streamscalar.analysis.quantities import for_tracked
from streamscalar.analysis.series import RunSeries
from streamscalar.analysis.table import Table
from streamscalar.config import Config
from streamscalar.config.models import ModelSection
from streamscalar.experiment import Experiment
from streamscalar.report import figures
from streamscalar.report.figures.divergence_curves import MOST_CURVES
from streamscalar.report.figures.drawing import COLOURS, Drawing, thin
from streamscalar.report.phrases import counted
from streamscalar.report.tables import claims_table, laws_table, methods_table, settings_table
from streamscalar.report.words import conclusions
from streamscalar.store import Place, medium_of

REGIME_STYLE = "".join(f".{regime}{{color:{colour};font-weight:600}}" for regime, colour in COLOURS.items())
STYLE = f"""
body{{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}}
h1{{font-size:1.5rem;margin-bottom:0}} h2{{font-size:1.15rem;margin-top:2.5rem}} p,li{{max-width:46rem}}
.scroll{{overflow-x:auto;-webkit-overflow-scrolling:touch}} figure{{margin:1rem 0}}
figure svg{{display:block;width:100%;height:auto;min-width:42rem;max-width:60rem}}
figcaption{{font-size:.85rem;color:#555;max-width:46rem}}
table{{border-collapse:collapse;font-size:.85rem;margin:.5rem 0}}
td,th{{padding:.3rem .6rem;text-align:left;
vertical-align:top;border-bottom:1px solid #ddd}} thead th{{vertical-align:bottom;border-bottom:2px solid #bbb}}
.settings td,.settings th{{white-space:nowrap}} .settings thead th{{white-space:normal;min-width:5rem}}
.settings th[scope=row]{{position:sticky;left:0;background:#fff}}
.claims td{{min-width:9rem}} .laws td:last-child{{white-space:nowrap}}
.claims td:nth-child(3){{min-width:18rem}} small{{color:#555}}
.found{{background:#f4f7fa;border-left:4px solid #0072B2;padding:.6rem 1rem .6rem 1.8rem;margin:1rem 0}}
.status,.absent{{color:#666}} .absent{{border-left:3px solid #ccc;padding-left:.8rem}}
.reproduced{{color:#00664f}}.refuted{{color:#b03a00}} b.undecided{{color:#666}}
pre{{background:#f6f6f6;padding:1rem;overflow:auto;font-size:.75rem}} {REGIME_STYLE}
@media print{{.scroll{{overflow:visible}} details{{display:block}}}}
"""


def write_report(
    experiment: Experiment,
    path: Place,
    table: Table | None = None,
    others: Sequence[Experiment] = (),
    figures_folder: Path | None = None,
) -> None:
    """Write the report of the rows stored now to `path`.

    Parameters
    ----------
    experiment
        The experiment to report.
    path
        The HTML file, or object; replaced atomically when the page is complete.
    table
        Its analysis, if the caller has it already.
    others
        Further experiments whose settings count for the claims.
    figures_folder
        Folder for every figure as PNG and PDF, `analysis.json`, `settings.csv` and `runs.csv`; none by default.
    """
    table = (experiment.analyze() if table is None else table).of_known_rates()
    drawings = draw(experiment, table)
    tables = [table, *(other.analyze() for other in others)]
    _replace(path, _page(experiment, table, drawings, tables))
    if figures_folder is not None:
        figures_folder.mkdir(parents=True, exist_ok=True)
        for drawing in drawings.values():
            drawing.save(figures_folder)
        _replace(figures_folder / "analysis.json", json.dumps(table.to_json(), indent=1, allow_nan=False) + "\n")
        _replace(figures_folder / "settings.csv", table.to_pandas().to_csv(index=False))
        _replace(figures_folder / "runs.csv", table.runs_to_pandas().to_csv(index=False))


def draw(experiment: Experiment, table: Table) -> dict[str, Drawing]:
    """Return every figure by name, or the reason why there is none, in the order of the report."""
    config = experiment.config
    shown = _shown(experiment, table)
    target = config.task.accuracy_target if config.task.has_accuracy else None
    drawings = [
        figures.regime_map(table.runs, table.settings, target, config.analysis.regular_below),
        figures.divergence_figure(shown, table.runs, table.settings, config.analysis.average),
        figures.trajectory_figure(shown, table.runs, table.settings),
        figures.exponent_figure(table.runs, table.settings),
        figures.ladder_figure(table.settings, table.ladders),
        figures.local_figure(shown, table.runs, table.settings),
        figures.times_figure(table.runs, table.settings),
        figures.spacing_figure(table.settings),
        figures.variance_figure(table.runs, table.settings),
    ]
    if config.task.name == "tracked":
        drawings = [replace(drawing, text=for_tracked(drawing.text)) for drawing in drawings]
    return {drawing.name: drawing for drawing in drawings}


def _shown(experiment: Experiment, table: Table) -> dict[str, RunSeries]:
    """Return the series of the first initial condition of each setting, of at most `MOST_CURVES` settings."""
    shown = {}
    for setting in thin(table.settings, MOST_CURVES):
        key = setting.key
        first = next(run for run in table.runs if run.key == key)
        shown[first.run_id] = experiment.run(first.run_id).series()
    return shown


def what_was_run(config: Config, table: Table) -> str:
    """Return one sentence on what was trained, how often, and how it was perturbed."""
    task, model, training, perturbation = config.task, config.model, config.training, config.perturbation
    if task.name == "tracked":
        return f"{counted(len(table.runs), 'run')} of your own training loop, recorded by ss.track."
    network = f"{_network(model)} on {task.name}"
    if task.name == "quadratic":
        network = f"a quadratic loss with {len(task.curvatures)} curvatures"
    data = "" if task.n_train is None else f" ({task.n_train:,} training samples)"
    rates = training.learning_rate
    grid = (
        f"{len(rates)} learning rates from {min(rates):g} to {max(rates):g}"
        if len(rates) > 1
        else f"learning rate {rates[0]:g}"
    )
    epsilons = ", ".join(f"{epsilon:g}" for epsilon in perturbation.epsilon)
    replicas = (
        f"each with {perturbation.n_perturbed} replicas perturbed by {epsilons}"
        if perturbation.n_perturbed
        else "without perturbed replicas"
    )
    control = " and one unperturbed copy" if perturbation.control else ""
    batches = "full-batch steps" if training.batch_size == "full" else f"steps on {training.batch_size} samples"
    momentum = f" with momentum {training.momentum:g}" if training.momentum else ""
    decay = f", weight decay {training.weight_decay:g}" if training.weight_decay else ""
    return (
        f"{len(table.runs)} runs of {network}{data}: {training.n_steps} {batches} of {training.optimizer}"
        f"{momentum}{decay} in {training.dtype} at {grid}, {config.experiment.n_initial_conditions} initial conditions "
        f"each, {replicas}{control}."
    )


def _network(model: ModelSection) -> str:
    if model.name == "mlp":
        return f"a {model.activation} network with {_layers(model.widths)}"
    if model.name == "cnn":
        return f"a {model.activation} convolutional network of {' and '.join(map(str, model.channels))} channels"
    return f"the network {model.name}"


def _layers(widths: Sequence[int]) -> str:
    layers = "one hidden layer" if len(widths) == 1 else f"{len(widths)} hidden layers"
    return f"{layers} of {', '.join(map(str, widths))}"


def _page(experiment: Experiment, table: Table, drawings: Mapping[str, Drawing], tables: Sequence[Table]) -> str:
    name = html.escape(experiment.config.experiment.name)
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in conclusions(table))
    facts = json.dumps({"config": experiment.store.config, "provenance": experiment.store.provenance}, indent=1)
    has_ladder = len(experiment.config.perturbation.epsilon) > 1
    settings = settings_table(table) if table.settings else "<p class=absent>No run has started.</p>"
    body = [
        f"<h1>{name}</h1><p>{html.escape(what_was_run(experiment.config, table))}</p>",
        f"<h2>What can be concluded, and what cannot</h2><ul class=found>{found}</ul>",
        "<h2>Every setting</h2><p>Exponents are per step, times in steps; brackets hold the interval over initial "
        "conditions. A cell without a number shows its status; hold the pointer over it to read the reason.</p>",
        settings,
        _section("Regimes and training time", drawings["regime-map"]),
        _section("How replicas drift apart", drawings["divergence"]),
        _section("Trajectories in the scalar", drawings["trajectories"]),
        _section("Exponents, by every estimator", drawings["exponents"]),
        *([_section("Smaller and smaller perturbations", drawings["epsilon-ladder"])] if has_ladder else []),
        _section("When along training it is sensitive", drawings["local-exponents"]),
        _section("Characteristic and decorrelation time", drawings["times"]),
        _section("Spacings of asymptotic states", drawings["spacings"]),
        laws_table(table),
        _section("How much the scalar holds", drawings["explained-variance"]),
        "<h2>Claims of the papers</h2>" + claims_table(judge_claims(tables)),
        "<h2>Methods</h2>" + methods_table(table.runs, table.settings),
        f"<h2>Config and provenance</h2><details><summary>Show</summary><pre>{html.escape(facts)}</pre></details>",
    ]
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport "
        f"content='width=device-width,initial-scale=1'><title>{name}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _section(title: str, drawing: Drawing) -> str:
    if drawing.figure is None:
        return f"<h2>{title}</h2><p class=absent>{html.escape(drawing.text)}</p>"
    return (
        f"<h2>{title}</h2><figure id={drawing.name}><div class=scroll tabindex=0>{drawing.svg()}</div>"
        f"<figcaption>{html.escape(drawing.text)}</figcaption></figure>"
    )


def _replace(path: Place, text: str) -> None:
    medium_of(path).write(path, text.encode())
