"""The page of the config: every section, key and preset, from the pydantic models."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from docs.generate.json_schema import Schema, kind
from docs.generate.markdown import code, described, fenced, page
from streamscalar.config import Config, preset_names
from streamscalar.config.loading import ENVIRONMENT_PREFIX

INTRODUCTION = f"""
A config is a YAML or JSON file of sections. Every key has a default, so a file names what differs. `streamscalar config
show PRESET` prints a preset as a commented file, and `streamscalar config schema` the JSON schema, for editors.

Later sources win: the file or preset, then environment variables (`{ENVIRONMENT_PREFIX}TRAINING__N_STEPS=300`), then
`--set training.n_steps=300`. An unknown key is an error.
"""


def config_page() -> str:
    """Return the page.

    Raises
    ------
    Undescribed
        A section, key or preset has no description.
    """
    schema = Config.model_json_schema()
    definitions: Schema = schema["$defs"]
    parts = [
        part
        for name, reference in schema["properties"].items()
        for part in _section(name, definitions[_target(reference)], definitions)
    ]
    presets = [part for name in preset_names() for part in _preset(name)]
    return page("Config", INTRODUCTION, *parts, "## Presets", *presets)


def _target(reference: Schema) -> str:
    found: str = reference["$ref"].rsplit("/", 1)[1]
    return found


def _section(path: str, section: Schema, definitions: Schema) -> Iterator[str]:
    yield f"## {path} {{ #{path} }}"
    yield described(path, section.get("description"))
    inner = []
    for key, schema in section["properties"].items():
        if "$ref" in schema:
            inner.append((f"{path}.{key}", definitions[_target(schema)]))
            facts = f"See [{path}.{key}](#{path}.{key})."
        else:
            facts = f"*Type:* {kind(schema)}; default {code(json.dumps(_default(path, key, schema)))}"
        anchor = f"{path}.{key}-section" if "$ref" in schema else f"{path}.{key}"
        yield f"### {key} {{ #{anchor} }}\n\n{_described(path, key, schema)}\n\n{facts}"
    for name, nested in inner:
        yield from _section(name, nested, definitions)


def _described(path: str, key: str, schema: Schema) -> str:
    return described(f"{path}.{key}", schema.get("description"))


def _default(path: str, key: str, schema: Schema) -> Any:
    if "default" not in schema:
        raise ValueError(f"{path}.{key} has no default; the page says that every key has one")
    return schema["default"]


def _preset(name: str) -> Iterator[str]:
    text = (resources.files("streamscalar.config") / "presets" / f"{name}.yaml").read_text("utf-8")
    lines = text.splitlines()
    about = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    yield f"### {Path(name).name} {{ #preset-{name} }}"
    yield described(f"preset {name}", " ".join(about))
    yield fenced("\n".join(line for line in lines if not line.startswith("#")), "yaml")
