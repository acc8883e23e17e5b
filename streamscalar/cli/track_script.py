"""The command `track-script`: run a training script with its training tracked."""

from pathlib import Path
from typing import Annotated

import typer

from streamscalar.cli.shared_options import QuietOption

CONTEXT = {"allow_interspersed_args": False}
"""Options after the script belong to it."""


def track_script(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="Python file that trains a model.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Arguments and options of the script.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run (default: run, with a number if that is taken).")
    ] = None,
    group: Annotated[str, typer.Option(help="Name of the experiment.")] = "tracked",
    store: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the store (default: ./streamscalar-runs/GROUP).")
    ] = None,
    every_n_steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps between rows (default: as 2 % overhead allows).")
    ] = None,
    probe: Annotated[int | None, typer.Option(min=1, help="Record only about this many coordinates.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Run a training script of PyTorch, unchanged, and record its weights after each update.

    Options of this command stand before SCRIPT. The exit code is that of the
    script. Of several optimizers, the one with the most parameters is recorded.

    Example:  streamscalar track-script --group trials train.py --epochs 3
    """
    from streamscalar.integrations.script import run_script
    from streamscalar.tracking.start import check_names

    check_names(group, name)
    options = {
        "name": name,
        "group": group,
        # The script may change the current folder before its first update.
        "store": (store or Path("streamscalar-runs", group)).absolute(),
        "every_n_steps": every_n_steps,
        "probe": probe,
    }

    def say(text: str) -> None:
        if not quiet:
            typer.echo(f"streamscalar: {text}", err=True)

    raise typer.Exit(run_script(script, arguments or [], options, say))
