"""The commands. Exit codes: 0 done, 1 work failed, 2 bad call."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamscalar import __version__
from streamscalar.cli import show
from streamscalar.cli.doctor_report import doctor
from streamscalar.cli.find_onset import find_onset
from streamscalar.cli.live import analyzed
from streamscalar.cli.serving import serve
from streamscalar.cli.shared_options import (
    AddressOption,
    ConfigArgument,
    ExecutorOption,
    JsonOption,
    PresetOption,
    QuietOption,
    SetOption,
    StoreArgument,
    StoreOption,
    chosen_config,
)
from streamscalar.cli.watching import add, alerts, cancel, query, watch
from streamscalar.config import Config, load_config, preset_names
from streamscalar.config.log_settings import log_format
from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.logs import set_up_logs

if TYPE_CHECKING:
    from streamscalar.experiment import Experiment

app = typer.Typer(
    name="streamscalar",
    help="Watch how neural networks train: stream every weight of perturbed twins into a store, embed each training "
    "in one number per step, and read off which learning rates are regular, at the onset, chaotic or diverging.\n\n"
    "First result in a minute:  streamscalar demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show what can be configured.", no_args_is_help=True)
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the command line; a user's mistake is one sentence, never a traceback."""
    try:
        app()
    except StreamscalarError as error:
        print(f"streamscalar: {error}", file=sys.stderr)  # noqa: T201  (this is the command line)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("streamscalar: stopped; every acknowledged row is kept", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    set_up_logs(log_format())


@app.command()
def demo(
    store: StoreOption = None,
    settings: SetOption = None,
    executor: ExecutorOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small network on real digits at six learning rates and show which are chaotic (about a minute)."""
    config = chosen_config("demo", None, "digits-sweep", settings, store, executor, None)
    _execute(config, json=json, quiet=quiet)
    if not json:
        show.next_steps(config.store_path)


@app.command()
def run(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run an experiment; a store of the same config is continued, one of another config refused.

    Example:  streamscalar run --preset mnist --set task.path=./mnist --set 'training.learning_rate=[1,5,10]'
    """
    _execute(chosen_config("run", config, preset, settings, store, executor, address), json=json, quiet=quiet)


@app.command()
def resume(
    store: StoreArgument,
    settings: SetOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on with an experiment that was stopped or killed; the result is the same bit for bit.

    Where it runs may change (`--set cluster.gpus_per_trainer=0.25`), what it computes may not.
    """
    from streamscalar.runtime import continue_store

    cluster = {name: value for name, value in (("executor", executor), ("address", address)) if value is not None}
    _execute(continue_store(store, cluster, tuple(settings or ())), json=json, quiet=quiet)


@app.command()
def attach(
    store: StoreArgument,
    address: Annotated[str, typer.Option(help="The Ray cluster it runs on, such as host:6379.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Watch an experiment that runs on a Ray cluster, whoever began it; Ctrl-C leaves it running.

    An experiment on a cluster does not need the terminal that began it. `cancel` ends one of its runs; `resume` goes
    on where nothing runs any more.
    """
    from streamscalar.cli.live import live_view
    from streamscalar.runtime import attach as attach_to

    with live_view(quiet=quiet or log_format() is not None) as on_snapshot:
        experiment = attach_to(store, address, on_snapshot)
    if experiment is None:
        again = f"streamscalar attach {store} --address {address}"
        typer.echo(f"It goes on without you; watch it again with: {again}", err=json)
    else:
        _conclude(experiment, str(store), json=json, quiet=quiet)


@app.command()
def ls(
    store: Annotated[str, typer.Argument(help="A store, or a folder of stores.")] = "streamscalar-runs",
    json: JsonOption = False,
) -> None:
    """List experiments, or the runs of one."""
    show.listing(store, as_json=json)


@app.command(name="show")
def show_command(
    store: StoreArgument,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run, as `ls STORE` names it.")] = None,
    json: JsonOption = False,
) -> None:
    """Show config and provenance of an experiment, or everything about one run."""
    show.details(store, run_id, as_json=json)


@app.command()
def analyze(store: StoreArgument, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Estimate regime, exponents, times and spacings per learning rate, with intervals and statuses."""
    import streamscalar

    show.table(analyzed(streamscalar.open(store), quiet=quiet), as_json=json)


@app.command()
def claims(
    stores: Annotated[list[str], typer.Argument(help="Stores to judge by, together.", metavar="STORE...")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Judge each claim of the papers by what is stored: reproduced, refuted or undecided, and why."""
    import streamscalar
    from streamscalar.analysis.claims import judge_claims

    tables = [analyzed(streamscalar.open(store), quiet=quiet) for store in stores]
    show.claims(judge_claims(tables), as_json=json)


@app.command()
def report(
    store: StoreArgument,
    beside: Annotated[
        list[str] | None, typer.Option("--with", help="Another store whose runs count for the claims; may repeat.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file (default: STORE/report.html).")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for every figure as PNG and PDF, and the numbers as CSV and JSON.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a self-contained HTML report: figures, tables, and what can be concluded from them."""
    import streamscalar
    from streamscalar.report import write_report
    from streamscalar.store import place

    path = output or place(store) / "report.html"
    experiment = streamscalar.open(store)
    others = [streamscalar.open(other) for other in beside or ()]
    for other in others:
        analyzed(other, quiet=quiet)
    write_report(experiment, path, analyzed(experiment, quiet=quiet), others=others, figures_folder=figures)
    typer.echo(str(path))


@app.command()
def export(
    store: StoreArgument,
    output: Annotated[Path | None, typer.Option(help="Folder for the files (default: STORE/export).")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or csv.")] = "parquet",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write settings, runs and series as tables, for notebooks and other tools."""
    import streamscalar
    from streamscalar.report.export import FORMATS
    from streamscalar.report.export import export as write_tables
    from streamscalar.store import place

    chosen = next((known for known in FORMATS if known == form), None)
    if chosen is None:
        raise BadCall("--format", f"must be {' or '.join(FORMATS)}", repr(form), kind=Kind.CONFIG)
    experiment = streamscalar.open(store)
    analyzed(experiment, quiet=quiet)
    paths = write_tables(experiment, output or place(store) / "export", chosen)
    if json:
        show.document({"schema": 1, "files": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(str(path))


@app.command()
def verify(store: StoreArgument, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Recompute every checksum of a store; exit code 1 where something is damaged."""
    show.verification(store, as_json=json, quiet=quiet)


@app.command()
def digest(store: StoreArgument, json: JsonOption = False) -> None:
    """Print one hash over weights, metrics, coordinates and estimates: equal digests mean equal bits."""
    import streamscalar

    value = streamscalar.open(store).digest()
    show.document({"schema": 1, "digest": value}) if json else typer.echo(value)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="train, track, api, scaling (minutes) or onset (an hour).")] = "train",
    json: JsonOption = False,
) -> None:
    """Measure speed on this machine, beside a baseline and the physical limit."""
    from streamscalar.bench import BENCHES

    if name not in BENCHES:
        raise BadCall("bench", f"must be one of {', '.join(BENCHES)}", repr(name), kind=Kind.CONFIG)
    show.figures(name, BENCHES[name](), as_json=json)


app.command(name="find-onset")(find_onset)
for command in (serve, watch, query, alerts, add, cancel, doctor):
    app.command()(command)


@config_app.command(name="schema")
def config_schema() -> None:
    """Print the JSON schema of a config file, for editors."""
    show.document(Config.model_json_schema())


@config_app.command(name="show")
def config_show(
    preset: Annotated[str, typer.Argument(help=f"One of: {', '.join(preset_names())}.")],
    settings: SetOption = None,
) -> None:
    """Print a preset as a commented config file, to edit and run."""
    from streamscalar.config.loading import commented_yaml

    typer.echo(commented_yaml(load_config(preset=preset, settings=settings or ())))


def _execute(config: Config, *, json: bool, quiet: bool) -> None:
    from streamscalar.cli.live import live_view
    from streamscalar.runtime import execute, prepare

    prepared = prepare(config)
    if not quiet:
        show.price(prepared)
    with live_view(quiet=quiet or log_format() is not None) as on_snapshot:
        experiment = execute(prepared, on_snapshot)
    _conclude(experiment, config.store_path, json=json, quiet=quiet)


def _conclude(experiment: "Experiment", store: str, *, json: bool, quiet: bool) -> None:
    from streamscalar.report import write_report
    from streamscalar.store import place

    page = place(store) / "report.html"
    table = analyzed(experiment, quiet=quiet)
    write_report(experiment, page, table)
    show.table(table, as_json=json)
    if not json:
        typer.echo(f"report: {page}")
