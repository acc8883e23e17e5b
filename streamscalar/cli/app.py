"""The commands. Exit codes: 0 done, 1 work failed, 2 bad call."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from streamscalar import __version__
from streamscalar.cli import show
from streamscalar.config import Config, load_config, preset_names
from streamscalar.errors import BadCall, Kind, StreamscalarError

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

StoreArgument = Annotated[Path, typer.Argument(help="Folder of the store.", metavar="STORE")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; progress goes to stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; may repeat. Values are YAML."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store [default: ./streamscalar-runs/<experiment name>]."),
]
ExecutorOption = Annotated[str | None, typer.Option("--executor", help="ray (default) or inline: all in one process.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="An existing Ray cluster, such as host:6379.")]


def main() -> None:
    """Run the command line; a user's mistake is one sentence, never a traceback."""
    try:
        app()
    except StreamscalarError as error:
        print(f"streamscalar: {error}", file=sys.stderr)  # noqa: T201  (this is the command line)
        sys.exit(error.exit_code)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command()
def demo(
    store: StoreOption = None,
    settings: SetOption = None,
    executor: ExecutorOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small network on real digits at six learning rates and show which are chaotic (about a minute)."""
    config = _config(None, "digits-sweep", settings, store, executor, None)
    _execute(config, json=json, quiet=quiet)
    if not json:
        show.next_steps(config.store_path)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML or JSON file; or take --preset.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"One of: {', '.join(preset_names())}.")] = None,
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
    if (config is None) == (preset is None):
        raise BadCall(
            "run",
            "needs a config file or a preset, one of them",
            "both" if preset else "neither",
            f"For example --preset {preset_names()[0]}",
            Kind.CONFIG,
        )
    _execute(_config(config, preset, settings, store, executor, address), json=json, quiet=quiet)


@app.command()
def resume(
    store: StoreArgument,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on with an experiment that was stopped or killed; the result is the same bit for bit."""
    from streamscalar.runtime import continue_store

    cluster = {name: value for name, value in (("executor", executor), ("address", address)) if value is not None}
    _execute(continue_store(store, cluster), json=json, quiet=quiet)


@app.command()
def ls(
    store: Annotated[Path, typer.Argument(help="A store, or a folder of stores.")] = Path("streamscalar-runs"),
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
def analyze(store: StoreArgument, json: JsonOption = False) -> None:
    """Estimate regime, exponents and speed per learning rate, with intervals and statuses."""
    import streamscalar

    show.table(streamscalar.open(store).analyze(), as_json=json)


@app.command()
def report(
    store: StoreArgument,
    output: Annotated[Path | None, typer.Option(help="HTML file [default: STORE/report.html].")] = None,
) -> None:
    """Write a self-contained HTML report with figures."""
    import streamscalar
    from streamscalar.report import write_report

    path = output or store / "report.html"
    write_report(streamscalar.open(store), path)
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
    name: Annotated[str, typer.Argument(help="Which benchmark: train.")] = "train",
    json: JsonOption = False,
) -> None:
    """Measure speed on this machine, beside a baseline and the physical limit."""
    from streamscalar.bench import BENCHES

    if name not in BENCHES:
        raise BadCall("bench", f"must be one of {', '.join(BENCHES)}", repr(name), kind=Kind.CONFIG)
    show.figures(name, BENCHES[name](), as_json=json)


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


def _config(
    source: Path | None,
    preset: str | None,
    settings: list[str] | None,
    store: Path | None,
    executor: str | None,
    address: str | None,
) -> Config:
    chosen: dict[str, Any] = {"cluster": {}, "store": {}}
    if executor is not None:
        chosen["cluster"]["executor"] = executor
    if address is not None:
        chosen["cluster"]["address"] = address
    if store is not None:
        chosen["store"]["url"] = str(store)
    return load_config(source, preset=preset, settings=settings or (), overrides=chosen)


def _execute(config: Config, *, json: bool, quiet: bool) -> None:
    from streamscalar.cli.live import live_view
    from streamscalar.report import write_report
    from streamscalar.runtime import execute, prepare

    prepared = prepare(config)
    if not quiet:
        show.price(prepared)
    with live_view(config, quiet=quiet) as on_snapshot:
        experiment = execute(prepared, on_snapshot)
    page = Path(config.store_path) / "report.html"
    write_report(experiment, page)
    show.table(experiment.analyze(), as_json=json)
    if not json:
        typer.echo(f"report: {page}")
