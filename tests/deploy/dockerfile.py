"""The Dockerfile as its instructions, and the shell commands of one of them as words."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

SEPARATORS = {"&&", "||", ";", "|"}


@dataclass(frozen=True)
class Step:
    """One instruction.

    Attributes
    ----------
    stage
        Number of the build stage, from 0; -1 before the first `FROM`.
    name
        The instruction, as in `RUN`.
    text
        What follows it, continued lines joined.
    """

    stage: int
    name: str
    text: str

    @property
    def flags(self) -> dict[str, str]:
        """The options of the instruction itself, as in `--from=build`."""
        words = self.text.split()
        count = next((index for index, word in enumerate(words) if not word.startswith("--")), len(words))
        return dict(word.removeprefix("--").split("=", 1) for word in words[:count])

    @property
    def words(self) -> list[str]:
        """Its arguments without the options: a JSON array where it has that form, else words as a shell sees them."""
        if self.text.startswith("["):
            return list(json.loads(self.text))
        return shlex.split(self.text)[len(self.flags) :]

    @property
    def commands(self) -> list[list[str]]:
        """The commands of its shell form, as words, without the signs between them."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[list[str]] = [[]]
        for word in lexer:
            if word in SEPARATORS:
                found.append([])
            else:
                found[-1].append(word)
        return [command for command in found if command]


def steps(path: Path) -> list[Step]:
    """Return the instructions of a Dockerfile, without comments."""
    return list(_steps(path))


def _steps(path: Path) -> Iterator[Step]:
    stage = -1
    for found in DockerfileParser(str(path), env_replace=False).structure:
        stage += found["instruction"] == "FROM"
        if found["instruction"] != "COMMENT":
            yield Step(stage, found["instruction"], found["value"])
