"""The commands, except those of `watching`, `serving`, `find_onset`, `track_script` and `doctor_report`.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong. Typer prints the docstring of each command as its help:
the first paragraph also in the list of commands, and further paragraphs line by line, so their lines are short.
"""

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
from streamscalar.cli.track_script import CONTEXT, track_script
from streamscalar.cli.watching import add, alerts, cancel, query, watch
from streamscalar.config import Config, load_config, preset_names
from streamscalar.config.log_settings import log_format
from streamscalar.errors import BadCall, Kind, StreamscalarError
from streamscalar.logs import set_up_logs

if TYPE_CHECKING:
    from streamscalar.experiment import Experiment

app = typer.Typer(
    name="streamscalar",
    help="Measure how sensitive neural network training is to small perturbations. Trains perturbed copies of a "
    "network, stores all weights at every step, embeds each run in one number per step, and classifies learning rates "
    "as regular, onset, chaotic or diverged.\n\n"
    "First result in about a minute:  streamscalar demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Print presets and the schema of config files.", no_args_is_help=True)
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the command line; errors that the user can fix are printed as one sentence, without a traceback."""
    try:
        app()
    except StreamscalarError as error:
        print(f"streamscalar: {error}", file=sys.stderr)  # noqa: T201  (this is the command line)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("streamscalar: interrupted; all acknowledged rows are kept", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _version(is_set: bool) -> None:
    if is_set:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
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
    """Train a small network on digits at six learning rates and show which are chaotic; takes about a minute."""
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
    """Run an experiment and write its report.

    A store with the same config is continued; a store with another config is
    an error, and stays as it is.

    Example:  streamscalar run --preset mnist --set task.path=./mnist
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
    """Continue an experiment that was interrupted; the result is bit for bit the same.

    --set may change cluster.*, store.fsync and store.spool, which do not
    change the results.
    """
    from streamscalar.runtime import continue_store

    cluster = {name: value for name, value in (("executor", executor), ("address", address)) if value is not None}
    _execute(continue_store(store, cluster, tuple(settings or ())), json=json, quiet=quiet)


@app.command()
def attach(
    store: StoreArgument,
    address: Annotated[str, typer.Option(help="Ray cluster that runs it, such as host:6379.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Watch an experiment that is running on a Ray cluster; Ctrl-C does not stop it.

    An experiment on a cluster continues when the terminal that started it is
    closed. To end one of its runs, use `cancel`; if it is not running any more,
    use `resume`.
    """
    from streamscalar.cli.live import live_view
    from streamscalar.runtime import attach as attach_to

    with live_view(quiet=quiet or log_format() is not None) as on_snapshot:
        experiment = attach_to(store, address, on_snapshot)
    if experiment is None:
        again = f"streamscalar attach {store} --address {address}"
        typer.echo(f"The experiment keeps running. To watch it again: {again}", err=json)
    else:
        _conclude(experiment, str(store), json=json, quiet=quiet)


@app.command()
def ls(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A store, or a folder of stores.")
    ] = "streamscalar-runs",
    json: JsonOption = False,
) -> None:
    """List the experiments in a folder, or the runs of a store."""
    show.listing(store, as_json=json)


@app.command(name="show")
def show_command(
    store: StoreArgument,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Name of a run, as listed by `ls STORE`.")] = None,
    json: JsonOption = False,
) -> None:
    """Print config and provenance of an experiment, or setting, status and estimates of a run."""
    show.details(store, run_id, as_json=json)


@app.command()
def analyze(store: StoreArgument, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Print the estimates per learning rate: regime, exponents, times, with confidence intervals."""
    import streamscalar

    show.table(analyzed(streamscalar.open(store), quiet=quiet), as_json=json)


@app.command()
def claims(
    stores: Annotated[list[str], typer.Argument(help="Stores whose runs are evaluated together.", metavar="STORE...")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Test the claims of the papers on stored runs: reproduced, refuted or undecided."""
    import streamscalar
    from streamscalar.analysis.claims import judge_claims

    tables = [analyzed(streamscalar.open(store), quiet=quiet) for store in stores]
    show.claims(judge_claims(tables), as_json=json)


@app.command()
def report(
    store: StoreArgument,
    further: Annotated[
        list[str] | None, typer.Option("--with", help="Further store for the test of the claims; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write (default: STORE/report.html).")] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Also write the figures (PNG, PDF) and their numbers (CSV, JSON) to this folder."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write an HTML report with figures, tables and conclusions in one file."""
    import streamscalar
    from streamscalar.report import write_report
    from streamscalar.store import place

    path = output or place(store) / "report.html"
    experiment = streamscalar.open(store)
    others = [streamscalar.open(other) for other in further or ()]
    for other in others:
        analyzed(other, quiet=quiet)
    write_report(experiment, path, analyzed(experiment, quiet=quiet), others=others, figures_folder=figures)
    typer.echo(str(path))


@app.command()
def export(
    store: StoreArgument,
    output: Annotated[Path | None, typer.Option(help="Folder to write to (default: STORE/export).")] = None,
    form: Annotated[str, typer.Option("--format", help="File format: parquet or csv.")] = "parquet",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the tables settings, runs and series for notebooks and other tools."""
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
    """Check all checksums of a store; exit code 1 if data are damaged."""
    show.verification(store, as_json=json, quiet=quiet)


@app.command()
def digest(store: StoreArgument, json: JsonOption = False) -> None:
    """Print a hash over weights, metrics, coordinates and estimates, to compare two experiments bit for bit."""
    import streamscalar

    value = streamscalar.open(store).digest()
    show.document({"schema": 1, "digest": value}) if json else typer.echo(value)


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="train, track, api or scaling (minutes each), or onset (an hour).")
    ] = "train",
    json: JsonOption = False,
) -> None:
    """Measure the speed of this machine, with a baseline and the hardware limit where there is one."""
    from streamscalar.bench import BENCHES

    if name not in BENCHES:
        raise BadCall("bench", f"must be one of {', '.join(BENCHES)}", repr(name), kind=Kind.CONFIG)
    show.figures(name, BENCHES[name](), as_json=json)


app.command(name="find-onset")(find_onset)
app.command(name="track-script", context_settings=CONTEXT)(track_script)
for command in (serve, watch, query, alerts, add, cancel, doctor):
    app.command()(command)


@config_app.command(name="schema")
def config_schema() -> None:
    """Print the JSON schema of config files, for editors."""
    show.document(Config.model_json_schema())


@config_app.command(name="show")
def config_show(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help=f"One of: {', '.join(preset_names())}.")],
    settings: SetOption = None,
) -> None:
    """Print a preset as a config file with a comment on each key."""
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
