"""The generated pages hold every public name; one without a description stops the build."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

import streamscalar
from docs.generate import cli, config, http, python, store
from docs.generate.markdown import Undescribed, described
from streamscalar.cli.commands import app
from streamscalar.config import Config, preset_names
from streamscalar.store import schema


def test_an_empty_description_is_none() -> None:
    for text in (None, "", " \n"):
        with pytest.raises(Undescribed, match=r"a\.b has no description"):
            described("a.b", text)


def test_the_page_of_the_command_line_holds_every_command_and_option() -> None:
    page = cli.cli_page()
    root: Any = get_command(app)
    for name, command in root.commands.items():
        assert f"## {name}" in page
        for parameter in getattr(command, "params", ()):
            assert parameter.name == "help" or (parameter.metavar or parameter.opts[-1]) in page


def test_an_option_without_help_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    root: Any = get_command(app)
    option = next(parameter for parameter in root.commands["serve"].params if parameter.name == "port")
    option.help = None
    monkeypatch.setattr(cli, "get_command", lambda _: root)
    with pytest.raises(Undescribed, match="serve: --port"):
        cli.cli_page()


def test_the_page_of_the_config_holds_every_key_and_preset() -> None:
    page = config.config_page()
    for name, section in Config.model_fields.items():
        assert f"## {name} {{ #{name} }}" in page
        for key in getattr(section.annotation, "model_fields", {}):
            assert f"{{ #{name}.{key}" in page
    for name in preset_names():
        assert f"{{ #preset-{name} }}" in page


def test_a_key_without_a_docstring_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Config.model_json_schema()
    del document["$defs"]["StoreSection"]["properties"]["fsync"]["description"]
    monkeypatch.setattr(Config, "model_json_schema", lambda: document)
    with pytest.raises(Undescribed, match=r"store\.fsync"):
        config.config_page()


def test_the_page_of_http_holds_every_request_and_document() -> None:
    page = http.http_page()
    document = http.openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n" in page
    for name in ("RunItem", "SeriesDocument", "ProblemDocument", "Regime"):
        assert f"### {name}\n" in page


def _without_operation(document: dict[str, Any]) -> None:
    del document["paths"]["/v1/runs"]["get"]["description"]


def _without_parameter(document: dict[str, Any]) -> None:
    del document["paths"]["/v1/runs"]["get"]["parameters"][0]["description"]


def _without_field(document: dict[str, Any]) -> None:
    del document["components"]["schemas"]["RunItem"]["properties"]["state"]["description"]


@pytest.mark.parametrize(
    ("without", "name"),
    [
        (_without_operation, "GET /v1/runs has"),
        (_without_parameter, "GET /v1/runs: filter"),
        (_without_field, r"RunItem\.state"),
    ],
)
def test_a_request_without_words_stops_the_build(
    without: Callable[[dict[str, Any]], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = copy.deepcopy(http.openapi())
    without(document)
    monkeypatch.setattr(http, "openapi", lambda: document)
    with pytest.raises(Undescribed, match=name):
        http.http_page()


def test_the_page_of_python_holds_every_public_name_and_what_they_return() -> None:
    page = python.python_page()
    for name in streamscalar.__all__:
        assert name == "__version__" or f"::: streamscalar.{name}\n" in page
    found = {kind.__name__ for kind in python.returned()}
    assert {"Estimate", "Event", "Layout", "Regime", "RunEstimates", "Series", "Status", "Summary", "Table"} <= found
    # What is public itself is described once.
    assert not {"Client", "Run", "Tracker"} & found


def test_a_method_without_a_docstring_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamscalar.Run.steps, "__doc__", None)
    with pytest.raises(Undescribed, match=r"Run\.steps"):
        python.python_page()


def test_the_page_of_the_store_holds_every_array_and_attribute() -> None:
    page = store.store_page()
    for name in schema.DESCRIPTIONS:
        assert f"| `{name}` |" in page, f"{name} is described, and the schema has no such array or attribute"
    assert "| `weights/deltas` | uint64 | (N, R, P) |" in page
    assert f"**{schema.SCHEMA_VERSION}**" in page


@pytest.mark.parametrize("name", ["divergence/pairs", "weights.length", "embedding/exact/mean"])
def test_an_array_or_attribute_without_words_stops_the_build(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {key: text for key, text in schema.DESCRIPTIONS.items() if key != name}
    monkeypatch.setattr(schema, "DESCRIPTIONS", rest)
    with pytest.raises(Undescribed, match=name):
        store.store_page()
