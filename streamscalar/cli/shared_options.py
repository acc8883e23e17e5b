"""Options that several commands share, and the config they add up to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from streamscalar.config import Config, load_config, preset_names
from streamscalar.errors import BadCall, Kind

StoreArgument = Annotated[
    str, typer.Argument(help="Folder of the store, or its URL (s3://bucket/prefix).", metavar="STORE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; progress goes to stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; may repeat. Values are YAML."),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="Folder of the store, or s3://bucket/prefix (default: ./streamscalar-runs/<experiment name>)."
    ),
]
ExecutorOption = Annotated[str | None, typer.Option("--executor", help="ray (default) or inline: all in one process.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="An existing Ray cluster, such as host:6379.")]
ConfigArgument = Annotated[Path | None, typer.Argument(help="YAML or JSON file; or take --preset.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help=f"One of: {', '.join(preset_names())}.")]


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
        Both are given, or neither; or the config is not valid.
    """
    if (source is None) == (preset is None):
        raise BadCall(
            command,
            "needs a config file or a preset, one of them",
            "both" if preset else "neither",
            f"For example --preset {preset_names()[0]}",
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
