"""Read files, presets, the environment and `--set` into one validated `Config`."""

import difflib
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from streamscalar.config.models import Config
from streamscalar.errors import BadCall, Kind

ENVIRONMENT_PREFIX = "STREAMSCALAR_"

COLUMNS = 80
"""Width of the comments of `commented_yaml`."""


def preset_names() -> list[str]:
    """Return the names of the built-in presets."""
    folder = resources.files("streamscalar.config") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    preset: str | None = None,
    settings: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """Return a validated config.

    Sources in ascending priority: file or preset, environment, `settings`, `overrides`.

    Parameters
    ----------
    source
        A YAML or JSON file, a nested mapping, or a `Config`, which is returned as it is.
    preset
        Name of a built-in preset; `source` is merged over it.
    settings
        `section.key=value` strings; values are read as YAML.
    overrides
        Nested mapping, sections by name.
    environment
        Variables of the form `STREAMSCALAR_SECTION__KEY=value` are read, all others ignored.

    Raises
    ------
    BadCall
        A file cannot be read, or a key or value is not valid; the message names the field, the value and the fix.
    """
    if isinstance(source, Config):
        return source
    merged: dict[str, Any] = {}
    if preset is not None:
        _merge(merged, _read_preset(preset))
    if isinstance(source, Mapping):
        _merge(merged, source)
    elif source is not None:
        _merge(merged, _read_file(Path(source)))
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _put(merged, path, _read_value(name, value), name)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadCall("--set", "must be section.key=value", repr(text), kind=Kind.CONFIG)
        _put(merged, key.strip().split("."), _read_value(key, value), f"--set {key}")
    _merge(merged, overrides or {})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error) from None


def _read_preset(name: str) -> Mapping[str, Any]:
    if name not in preset_names():
        raise BadCall(
            "preset",
            f"must be one of {', '.join(preset_names())}",
            repr(name),
            _did_you_mean(name, preset_names()),
        )
    text = (resources.files("streamscalar.config") / "presets" / f"{name}.yaml").read_text("utf-8")
    return _parse(text, f"preset {name}")


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCall(
            str(path),
            "must be a readable YAML or JSON config file",
            str(error),
            f"Check the path, or use a preset: --preset {'|'.join(preset_names())}",
            Kind.CONFIG,
        ) from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadCall(where, "must be valid YAML or JSON", " ".join(str(error).split()), kind=Kind.CONFIG) from None
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise BadCall(where, "must consist of sections such as `training:`", type(data).__name__, kind=Kind.CONFIG)
    return data


def _read_value(where: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadCall(
            where, "must be followed by a YAML value such as 3, true or [1, 2]", repr(text), kind=Kind.CONFIG
        ) from None


def _put(merged: MutableMapping[str, Any], path: list[str], value: Any, where: str) -> None:
    is_nested = len(path) == 3 and ".".join(path[:2]) == "analysis.alerts"
    if not (len(path) == 2 or is_nested) or not all(path):
        raise BadCall(where, "must name a section and a key, such as training.n_steps", kind=Kind.CONFIG)
    for name in reversed(path):
        value = {name: value}
    _merge(merged, value)


def _merge(into: MutableMapping[str, Any], new: Mapping[str, Any]) -> None:
    """Merge sections key by key; a value that is not a mapping replaces the old one."""
    for name, section in new.items():
        if section is not None:
            into[name] = _merged(into.get(name, {}), section)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _explain(error: ValidationError) -> BadCall:
    """Return the first error that pydantic found as a `BadCall`."""
    finding = error.errors(include_url=False)[0]
    path = [str(part) for part in finding["loc"] if not str(part).startswith(("function-", "constrained-"))]
    names = _field_names(path)
    where = ".".join(path) or "config"
    if finding["type"] == "extra_forbidden":
        return BadCall(
            where,
            f"is not a known key; known here: {', '.join(names)}",
            "",
            _did_you_mean(path[-1], names),
            Kind.CONFIG,
        )
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "value_error":
        field, colon, rest = message.partition(": ")
        known = field if "." in field else f"{where}.{field}" if where != "config" else field
        return (
            BadCall(known, rest, kind=Kind.CONFIG)
            if colon
            else BadCall(where, message, _got(finding), kind=Kind.CONFIG)
        )
    if finding["type"] == "string_pattern_mismatch":
        message = f"must match {finding['ctx']['pattern']}"
    message = message.replace("Input should be", "must be")
    return BadCall(where, message, _got(finding), kind=Kind.CONFIG)


def _got(finding: Mapping[str, Any]) -> str:
    text = repr(finding["input"])
    return text if len(text) <= 80 else text[:77] + "..."


def _field_names(path: list[str]) -> list[str]:
    model: Any = Config
    for name in path[:-1]:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""


def commented_yaml(config: Config) -> str:
    """Return the config as YAML, with a comment of at most 80 columns above each key."""
    lines = []
    for name in type(config).model_fields:
        section = getattr(config, name)
        lines += [f"# {(type(section).__doc__ or '').splitlines()[0]}", f"{name}:"]
        lines += [*(f"  {line}" for line in _commented(section)), ""]
    return "\n".join(lines)


def _commented(section: BaseModel) -> Iterator[str]:
    values = section.model_dump(mode="json")
    for key, about in type(section).model_fields.items():
        words = " ".join((about.description or "").split())
        yield from (f"# {line}" for line in _wrapped(f"{words}{_choices(about.annotation)}"))
        inner = getattr(section, key)
        if isinstance(inner, BaseModel):
            yield f"{key}:"
            yield from (f"  {line}" for line in _commented(inner))
        else:
            yield f"{key}: {yaml.safe_dump(values[key], default_flow_style=True, width=10**6).split(chr(10))[0]}"


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return f" One of: {', '.join(map(str, typing.get_args(annotation)))}."
    if typing.get_origin(annotation) in (types.UnionType, typing.Union) and type(None) in typing.get_args(annotation):
        return " May be null."
    return ""


def _wrapped(text: str) -> list[str]:
    # Two levels of sections indent by two each, and `# ` begins a comment.
    return textwrap.wrap(text, COLUMNS - 6, break_long_words=False, break_on_hyphens=False)
