"""The page of the store format: versions, layout, attributes and arrays, from the schema."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from docs.generate.markdown import code, described, fenced, page, table
from streamscalar.config import RunSetting
from streamscalar.store import schema
from streamscalar.store.embedding_reader import EXACT_ARRAYS
from streamscalar.types import Layer, Layout

INTRODUCTION = f"""
A store is a [Zarr 3](https://zarr.dev) hierarchy in a folder or under a prefix of a bucket, so any Zarr library can
open it. `schema_version` is **{schema.SCHEMA_VERSION}**; a store of a newer version is refused.

Readers take the number of rows from the attribute `length` of a stream (`weights`, `embedding`), never from the shape
of an array: the shape may follow later.
"""

_N_PERTURBED, _N_PARAMETERS, _N_COMPONENTS = 5, 1009, 3
_AXES = {
    2 + _N_PERTURBED: "R",
    1 + _N_PERTURBED: "1 + M",
    (1 + _N_PERTURBED) * _N_PERTURBED // 2: "M (M + 1) / 2",
    _N_PARAMETERS: "P",
    _N_COMPONENTS: "K",
}
"""Sizes of a run made up so that every size names its axis."""


def store_page() -> str:
    """Return the page.

    Raises
    ------
    Undescribed
        An array or attribute has no description.
    """
    spec = _sample()
    return page(
        "Store format",
        INTRODUCTION,
        "## Files",
        _layout(),
        "## Attributes of a run",
        "In `runs/<id>/zarr.json`; they never change.",
        table(["attribute", "meaning"], _definition(spec)),
        "## Attributes of the streams",
        "In `weights/zarr.json`, `embedding/zarr.json` and `logged/zarr.json`; they change with every segment.",
        table(["attribute", "at the start", "meaning"], _streams(spec)),
        "## Arrays",
        "N entries (one per row unless stated), R replicas (reference, M perturbed, control), P parameters, "
        "K components.",
        table(["array", "type", "shape", "meaning"], _arrays(spec)),
    )


def _sample() -> schema.RunSpec:
    layout = Layout((Layer("weight", 0, (_N_PARAMETERS,)),), "float64", _N_PERTURBED, has_control=True)
    return schema.RunSpec("run", RunSetting(), 0, layout, None, ("<name>",), _N_COMPONENTS, 8, "zstd")


def _layout() -> str:
    described("the layout of a store", schema.__doc__)
    _, tree, rest = inspect.cleandoc(schema.__doc__ or "").split("```")
    return f"{fenced(tree)}\n\n{rest.strip()}"


def _definition(spec: schema.RunSpec) -> Iterator[list[str]]:
    meanings = {**_attributes(Layout), **_attributes(schema.RunSpec)}
    for name in spec.to_json():
        yield [code(name), described(f"attribute {name} of a run", meanings.get(name))]


def _attributes(kind: type) -> Mapping[str, str]:
    """Return the descriptions under the heading *Attributes* of a class."""
    text = inspect.cleandoc(kind.__doc__ or "").split("Attributes\n----------\n")[1]
    names = {field.name for field in fields(kind)}
    found = re.findall(r"^(\w+)\n((?:    .*\n?)+)", text, re.MULTILINE)
    return {name: inspect.cleandoc(meaning) for name, meaning in found if name in names}


def _streams(spec: schema.RunSpec) -> Iterator[list[str]]:
    for group, attributes in spec.groups().items():
        for name, value in attributes.items():
            key = f"{group}.{name}"
            yield [code(key), code(repr(value)), described(key, schema.DESCRIPTIONS.get(key))]
    for key in ("weights.logged", "logged.series", "logged.crc32c"):
        yield [code(key), "absent", described(key, schema.DESCRIPTIONS.get(key))]


def _arrays(spec: schema.RunSpec) -> Iterator[list[str]]:
    documents: Mapping[str, Mapping[str, Any]] = spec.arrays() | spec.logged_arrays()
    # The name of the sample is a placeholder, which no metric is stored by.
    placeholder = schema.metric_path(spec.metrics[0])
    for stored, document in documents.items():
        path = f"metrics/{spec.metrics[0]}" if stored == placeholder else stored
        rest = [_AXES.get(size, str(size)) for size in document["shape"][1:]]
        shape = f"({', '.join(['N', *rest])})"
        yield [code(path), document["data_type"], shape, described(path, schema.DESCRIPTIONS.get(path))]
    for path in ("weights/state/<name>", *(f"embedding/exact/{name}" for name in EXACT_ARRAYS)):
        yield [code(path), "", "", described(path, schema.DESCRIPTIONS.get(path))]
