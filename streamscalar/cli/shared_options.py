"""Options that several commands share, and the config that results from them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from streamscalar.config import Config, load_config, preset_names
from streamscalar.errors import BadCall, Kind

StoreArgument = Annotated[str, typer.Argument(help="Folder of the store, or s3://bucket/prefix.", metavar="STORE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set one config key to a YAML value; may be repeated."),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="Folder of the store, or s3://bucket/prefix (default: ./streamscalar-runs/<experiment name>).",
    ),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="ray|inline", help="Run with Ray workers (ray, the default), or in this process (inline)."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Running Ray cluster, such as host:6379 (default: start a local one)."
    ),
]
ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="Config file (YAML or JSON), unless --preset is given.")
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help=f"Built-in config, one of: {', '.join(preset_names())}.")
]


def chosen_config(
    command: str,
    source: Path | None,
    preset: str | None,
    settings: list[str] | None,
    store: str | None,
    executor: str | None,
    address: str | None,
) -> Config:
    """Return the config of a command that takes a file or a preset.

    Raises
    ------
    BadCall
        Both or neither are given, or the config is not valid.
    """
    if (source is None) == (preset is None):
        raise BadCall(
            command,
            "needs a config file or a preset",
            "both" if preset else "neither",
            f"Pass one of them, for example --preset {preset_names()[0]}",
            Kind.CONFIG,
        )
    chosen: dict[str, dict[str, Any]] = {"cluster": {}, "store": {}}
    if executor is not None:
        chosen["cluster"]["executor"] = executor
    if address is not None:
        chosen["cluster"]["address"] = address
    if store is not None:
        chosen["store"]["url"] = store
    return load_config(source, preset=preset, settings=settings or (), overrides=chosen)
