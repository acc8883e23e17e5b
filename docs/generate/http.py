"""The page of the HTTP interface, from the OpenAPI schema of the application."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.generate.json_schema import Schema, kind
from docs.generate.markdown import code, described, page, table
from streamscalar_services.api.http.app import create_app
from streamscalar_services.api.schemas import ProblemDocument
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Tokens

PROBLEM = ProblemDocument.__name__
"""Document of an error."""

PROBLEM_LINK = f"[{PROBLEM}](#{PROBLEM.lower()})"

INTRODUCTION = f"""
`streamscalar serve` answers these requests, by default on `http://127.0.0.1:8870`. Send the token as
`Authorization: Bearer TOKEN`; only `/health` and `/ready` need none. The running service has the same schema at
`/v1/openapi.json`. An error is a {PROBLEM_LINK}. JSON has no NaN and no infinity: such numbers are the
strings `"nan"`, `"inf"` and `"-inf"`.
"""

_GENERATED = ("HTTPValidationError", "ValidationError")
"""Schemas that FastAPI adds for its own error format, which the service replaces by `ProblemDocument`."""


def openapi() -> dict[str, Any]:
    """Return the OpenAPI schema."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(ServiceOptions(Path(folder), Tokens("read", "admin"))).openapi()


def http_page() -> str:
    """Return the page.

    Raises
    ------
    Undescribed
        An operation, parameter, document or field has no description.
    """
    schema = openapi()
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    requests = [part for name, operation in operations for part in _operation(name, operation)]
    documents = [
        part
        for name, document in sorted(schema["components"]["schemas"].items())
        if name not in _GENERATED
        for part in _document(name, document)
    ]
    errors = table(["status", "meaning"], _problems(operations))
    return page("HTTP", INTRODUCTION, "## Requests", *requests, "## Errors", errors, "## Documents", *documents)


def _operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield described(name, operation.get("description"))
    parameters = operation.get("parameters", [])
    if parameters:
        yield "\n".join(_parameter(name, parameter) for parameter in parameters)
    body = operation.get("requestBody")
    if body is not None:
        yield f"*Body:* {_content(body)}"
    answers = operation["responses"]
    found = [
        f"**{status}** {_content(answer)}".strip() for status, answer in answers.items() if not _is_problem(answer)
    ]
    problems = [status for status, answer in answers.items() if _is_problem(answer)]
    errors = [f"Errors: {', '.join(problems)}."] if problems else []
    yield " ".join([f"Answers {', '.join(found)}.", *errors])


def _parameter(operation: str, parameter: Mapping[str, Any]) -> str:
    name, schema = parameter["name"], parameter["schema"]
    default = f", default {code(str(schema['default']))}" if schema.get("default") not in (None, "") else ""
    text = described(f"{operation}: {name}", parameter.get("description"))
    return f"- `{name}` ({parameter['in']}; {kind(schema)}{default}): {text}"


def _is_problem(answer: Mapping[str, Any]) -> bool:
    return _content(answer) == PROBLEM_LINK


def _problems(operations: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[list[str]]:
    """Yield every status that stands for a problem, once, with its meaning."""
    found: dict[str, list[str]] = {}
    for name, operation in operations:
        for status, answer in operation["responses"].items():
            meaning = described(f"{name}: {status}", answer["description"])
            if _is_problem(answer) and meaning not in found.setdefault(status, []):
                found[status].append(meaning)
    yield from ([code(status), "; or: ".join(meanings)] for status, meanings in sorted(found.items()))


def _content(holder: Mapping[str, Any]) -> str:
    found = []
    for media, content in holder.get("content", {}).items():
        schema: Schema = content.get("schema", {})
        # The schema of a problem is written out in every operation; its title names it.
        name = schema.get("title", "")
        is_problem = name == PROBLEM
        found.append(f"[{name}](#{name.lower()})" if is_problem else kind(schema) if schema else code(media))
    return " or ".join(found)


def _document(name: str, document: Schema) -> Iterator[str]:
    yield f"### {name}"
    yield described(name, document.get("description"))
    if "enum" in document:
        yield f"One of {kind(document)}."
        return
    yield "\n".join(
        f"- `{field}` ({kind(schema)}): {' '.join(described(f'{name}.{field}', schema.get('description')).split())}"
        for field, schema in document.get("properties", {}).items()
    )
