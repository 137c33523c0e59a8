"""Workflow commands: one line each, and nothing of a test breaks out of it."""

from __future__ import annotations

import dataclasses
import re

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.github import annotation, escape_message, escape_property

COMMAND = re.compile(r"::error file=([^,:]*),line=(\d+),title=([^,:]*)::([^\r\n]*)\Z")


def unescape(text: str) -> str:
    """As the runner reads it."""
    for escaped, meant in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ",")):
        text = text.replace(escaped, meant)
    return text.replace("%25", "%")


@given(st.text())
def test_messages_and_properties_are_read_back(text: str) -> None:
    assert unescape(escape_property(text)) == text
    assert "\n" not in escape_message(text)
    assert "\r" not in escape_message(text)
    assert not {":", ",", "\n", "\r"} & set(escape_property(text))


@pytest.mark.parametrize("text", ["%0A", "100%", "a%25b", "%3A"])
def test_what_looks_escaped_is_escaped_too(text: str) -> None:
    assert unescape(escape_message(text)) == text


@pytest.mark.parametrize("result", samples.run(), ids=lambda result: result.comparison.verdict)
def test_an_annotation_is_one_command(result: Result) -> None:
    match = COMMAND.match(annotation(result, "tests/a, b: c.py", 12))
    assert match is not None
    file, line, title, message = map(unescape, match.groups())
    assert (file, line) == ("tests/a, b: c.py", "12")
    assert title == f"fwcompare: {result.test}"
    assert message.startswith(f"{result.comparison.verdict}: ")


def test_the_message_says_where_why_and_whose_doing() -> None:
    match = COMMAND.match(annotation(samples.run()[1], "t.py", 1))
    assert match is not None
    lines = unescape(match[4]).splitlines()
    assert lines[1:4] == [
        "Where: encoder.1.norm2 of the torch reference; block_1/layer_norm of the tensorflow port",
        "Cause: epsilon",
        "Evidence: with epsilon=0.001 (reference 1e-05) the difference falls 2.3e-03 to 4.0e-13",
    ]
    assert lines[-2].startswith("Whose doing: the port moved")


def test_a_command_in_a_message_is_no_command() -> None:
    made = samples.semantic(message="oops\n::set-output name=x::y\n::error::no")
    text = annotation(Result("t", "t", 1, 1, made), "t.py", 1)
    assert len(text.splitlines()) == 1
    several = dataclasses.replace(samples.run()[1], index=2)
    assert "test_wrong #2" in unescape(annotation(several, "t.py", 1))
