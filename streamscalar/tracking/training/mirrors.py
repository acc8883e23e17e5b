"""The argument `mirror`: back ends that results of a tracked run also go to. Imports none of them."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from streamscalar.errors import BadCall, Kind
from streamscalar.tracking.channel.messages import Destination

MirrorName = Literal["wandb", "mlflow", "trackio", "tensorboard"]
"""Names of the back ends, which are also those of their packages and of the extras that install them."""


def destinations(mirror: MirrorName | Iterable[MirrorName] | None, address: str | None) -> tuple[Destination, ...]:
    """Return the back ends that `mirror` names.

    Raises
    ------
    BadCall
        A back end is unknown or not installed, or the run is recorded on a cluster.
    """
    names = (mirror,) if isinstance(mirror, str) else tuple(mirror or ())
    for name in names:
        if name not in get_args(MirrorName):
            must = f"must be one of {', '.join(get_args(MirrorName))}, or a list of them"
            raise BadCall("mirror", must, repr(name), kind=Kind.CONFIG)
        if importlib.util.find_spec(name) is None:
            must, got = f"must be a back end that is installed, and the package {name} is not", repr(name)
            raise BadCall("mirror", must, got, f"Run `pip install 'streamscalar[{name}]'`", Kind.CONFIG)
    if names and address is not None:
        must = "must be left out with address: rows on a cluster are not sent to other back ends"
        raise BadCall("mirror", must, repr(names), "Leave out address, or mirror", Kind.CONFIG)
    return tuple(Destination(name, _settings_here(name)) for name in dict.fromkeys(names))


def _settings_here(name: str) -> dict[str, str]:
    """Return what this process has set for a back end; empty where it has not imported it."""
    package = sys.modules.get(name)
    if package is None or name not in _SETTINGS:
        return {}
    try:
        found = _SETTINGS[name](package)
    except Exception:  # noqa: BLE001  (of another version of the package: its environment decides)
        return {}
    return {field: str(value) for field, value in found.items() if value}


def _of_wandb(wandb: Any) -> Mapping[str, Any]:
    run = wandb.run
    if run is None:
        return {}
    return {"project": run.project, "entity": run.entity, "group": run.group, "mode": run.settings.mode}


def _of_mlflow(mlflow: Any) -> Mapping[str, Any]:
    run = mlflow.active_run()
    return {"tracking_uri": mlflow.get_tracking_uri(), "run_id": None if run is None else run.info.run_id}


_SETTINGS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {"wandb": _of_wandb, "mlflow": _of_mlflow}
