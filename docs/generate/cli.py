"""The page of the command line, from the typer application."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from docs.generate.markdown import code, described, fenced, one_line, page, table
from streamscalar.cli.commands import app

INTRODUCTION = """
Exit codes: 0 done, 1 work failed, 2 bad call. An error is one sentence on standard error. `streamscalar --version`
prints the version, and `--help` after any command its options.
"""


def cli_page() -> str:
    """Return the page.

    Raises
    ------
    Undescribed
        A command, argument or option has no description.
    """
    return page("Command line", INTRODUCTION, *(part for found in _commands() for part in found), depth=2)


def _commands() -> Iterator[list[str]]:
    # Typer brings a click of its own in newer versions, so its commands have no type that a checker could name.
    root: Any = get_command(app)
    for name in sorted(root.commands):
        command = root.commands[name]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield _command(f"streamscalar {name}", command)
        else:
            for part in sorted(inner):
                yield _command(f"streamscalar {name} {part}", inner[part])


def _command(path: str, command: Any) -> list[str]:
    name = path.removeprefix("streamscalar ")
    context = command.context_class(command, info_name=path)
    options: list[list[str]] = []
    arguments: list[list[str]] = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        described(f"{name}: {parameter.opts[0]}", parameter.help)
        shown, text = parameter.get_help_record(context)
        rows = arguments if parameter.param_type_name == "argument" else options
        rows.append([code(shown), described(name, text)])
    parts = [f"## {name}", _help(described(name, command.help))]
    parts.append(fenced(command.get_usage(context).removeprefix("Usage: ")))
    if arguments:
        parts.append(table(["argument", "meaning"], arguments))
    if options:
        parts.append(table(["option", "meaning"], options))
    return parts


def _help(text: str) -> str:
    """Return a help text with its example commands as code."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        example = re.fullmatch(r"Example:\s+(streamscalar .*)", one_line(paragraph))
        if example:
            parts.append(f"Example:\n\n{fenced(example[1])}")
        elif all(line.startswith("streamscalar ") for line in paragraph.splitlines()):
            parts.append(fenced(paragraph))
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)
