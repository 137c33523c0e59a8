"""Reads a page of the documentation as a story: files to write, commands to run, what they print.

A fenced block with a title is a file. A `console` block holds commands, each after `$ `, and the
lines they print; `...` stands for any lines, and numbers that are measured may differ. A Python
block without a title runs in one namespace a page. A comment `<!-- exit 1 -->` before a block says
that its command fails, and `<!-- printed by: pytest ... -->` before a `text` block which command,
run once all files of the page are there, prints it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

NOT_RUN = ("pip ", "python -m pip ", "git ", "make ", "ssh ", "mkdocs ")
"""Commands that need a network or change the machine; `tests/docs` checks what they name."""

NUMBER = re.compile(
    r"(?<=example )\d+"
    r"|(?<![\w.])[-+]?\d[\d,]*(\.\d+(e[-+]?\d+)?|e[-+]?\d+|(?= ?(us|ms|s|ULP)\b))"
)
"""A measured number: with a point, an exponent or a unit. Counts stay as they are."""

CLOCK = re.compile(r"(?<=s) \(\d+:\d\d:\d\d\)")
"""What pytest adds to a duration of a minute and more."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        line: where it begins in the page.
        language: first word after the fence.
        title: file name, "" if it has none.
        exit: status that its commands end with.
        command: what prints it, for a `text` block.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str
    exit: int = 0
    command: str = ""


@dataclass(frozen=True)
class Command:
    """A command of a `console` block and the lines that the page says it prints."""

    text: str
    expected: tuple[str, ...]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page in order."""
    status, command = 0, ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            if found := re.search(r"<!-- exit (\d+) -->", token.content):
                status = int(found[1])
            if found := re.search(r"<!-- printed by: (.+) -->", token.content):
                command = found[1]
        elif token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            assert token.map is not None
            name, line = title[1] if title else "", token.map[0] + 1
            yield Block(page, line, language, name, token.content, status, command)
            status, command = 0, ""


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    made: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            made.append(Command(line[2:], ()))
        elif made:
            made[-1] = Command(made[-1].text, (*made[-1].expected, line))
        else:
            raise ValueError(f"{block.page.name}:{block.line}: output before any command")
    return made


def is_run(command: str) -> bool:
    """Whether the tests run a command, rather than checking what it names."""
    return not command.startswith(NOT_RUN)


def install(folder: Path) -> None:
    """What `pip install -e .` would do to the entry points of a story's own package."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page in the folder of its story."""
    line = re.sub(r"^pytest\b", "python -m pytest -p no:cacheprovider", command)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["COLUMNS"] = "100"
    return subprocess.run(
        line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


def missing(expected: tuple[str, ...], printed: str) -> str | None:
    """The first expected line that is not printed in its place, or None.

    Lines must follow each other as on the page, save where the page has `...`.
    """
    lines = [shape(line) for line in printed.splitlines()]
    place, loose = 0, True
    for line in expected:
        wanted = shape(line)
        if wanted == "...":
            loose = True
            continue
        if loose:
            place = next((i for i in range(place, len(lines)) if matches(wanted, lines[i])), -1)
            if place < 0:
                return line
        elif place >= len(lines) or not matches(wanted, lines[place]):
            return line
        place, loose = place + 1, False
    return None


def shape(line: str) -> str:
    """A line without its measured numbers and without the widths that depend on them."""
    return re.sub(r"[ =_-]{2,}|[=_-]+$", " ", NUMBER.sub("#", CLOCK.sub("", line))).strip()


def matches(wanted: str, line: str) -> bool:
    """Whether a line is the wanted one; `...` inside it stands for any text."""
    pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
    return re.fullmatch(pattern, line) is not None
