"""What a report says of the machine and of the command, and what it keeps to itself."""

from __future__ import annotations

import getpass
import json
import platform

import pytest
import samples

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.report.facts import command, machine, run_facts
from pytest_fwcompare.report.html import run_to_html
from pytest_fwcompare.report.json import host_from_json, run_to_json
from pytest_fwcompare.report.markdown import run_to_markdown

HOST = {
    "command": "pytest --fwcompare tests",
    "python": "3.11.7",
    "pytest": "9.2.0",
    "numpy": "2.4.6",
    "system": "Linux 6.1",
    "machine": "x86_64",
    "processors": "4",
}
LINE = "Linux 6.1, x86_64, 4 processors, python 3.11.7, pytest 9.2.0, numpy 2.4.6"


def test_the_machine_is_in_every_report() -> None:
    assert machine(HOST) == LINE
    assert ("Machine", LINE) in list(run_facts(samples.run(), HOST))
    assert host_from_json(run_to_json(samples.run(), HOST)) == HOST
    for results in (samples.run(), samples.run()[:1]):
        assert LINE in run_to_html(results, HOST)
    assert f"- Machine: {LINE.replace('_', chr(92) + '_')}" in run_to_markdown(samples.run(), HOST)


def test_the_command_that_was_typed_is_the_one_to_repeat() -> None:
    assert command(samples.run(), HOST) == "pytest --fwcompare tests"
    assert "```\npytest --fwcompare tests\n```" in run_to_markdown(samples.run(), HOST)


def test_a_file_without_a_machine_is_read() -> None:
    data = json.loads(run_to_json([]))
    del data["host"]
    assert host_from_json(json.dumps(data)) == {}
    assert machine({}) == ""


def test_a_machine_that_is_none() -> None:
    with pytest.raises(UsageError, match="report: host: expected an object, got list"):
        host_from_json('{"format": 1, "host": []}')


def test_of_a_real_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--token')")
    pytester.makepyfile("def test_it(): pass")
    options = ["--fwcompare", "--token=secret", "--fwcompare-devices=cpu", "-k", "it or that"]
    pytester.runpytest(*options, "--fwcompare-report=run.json", "test_of_a_real_run.py")
    text = (pytester.path / "run.json").read_text("utf-8")
    host = host_from_json(text)
    assert host["command"] == (
        "pytest --fwcompare --fwcompare-devices=cpu test_of_a_real_run.py -k 'it or that'"
    )
    assert host["python"] == platform.python_version()
    assert "secret" not in text
    for private in (platform.node(), getpass.getuser()):
        assert private not in host.values()
