"""Reports of whole runs: asked for by option or ini file, written at the end, honest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_right(fwcompare_port):
    fwcompare_port("reference", "equivalent", inputs={})

def test_wrong(fwcompare_port):
    fwcompare_port("reference", "semantic", inputs={})
"""

BROKEN = """
import pytest

def test_mapping(fwcompare_port):
    fwcompare_port("reference", "mapping", inputs={})

def test_before(fwcompare_port):
    raise ValueError("the model is not there")

@pytest.fixture
def broken():
    raise OSError("no such file")

def test_setup(broken, fwcompare_network):
    pass

def test_build(fwcompare_build):
    raise ValueError("compares nothing")

def test_skipped(fwcompare_port):
    pytest.skip("not today")
"""


def saved(path: Path) -> dict[str, dict[str, str]]:
    """Comparisons of a JSON report by the name of their test."""
    data = json.loads(path.read_text("utf-8"))
    named = {entry["test"].partition("::")[2]: entry for entry in data["comparisons"]}
    return {name.partition("[")[0]: entry["comparison"] for name, entry in named.items()}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_every_report_of_a_run(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile(TESTS)
    reports = [f"--fwcompare-report=out/run{suffix}" for suffix in (".json", ".html", ".md")]
    result = project.runpytest(
        "--fwcompare", *reports, "--fwcompare-tensorboard=my events", *workers
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "report: *run.json",
            "report: *run.html",
            "report: *run.md",
            "event files: tensorboard --logdir '*my events'",
        ]
    )
    out = project.path / "out"
    assert {path.name for path in out.iterdir()} == {"run.json", "run.html", "run.md"}
    assert set(saved(out / "run.json")) == {"test_right", "test_wrong"}
    assert "1 of 2 comparisons do not hold" in (out / "run.html").read_text("utf-8")
    assert "**1 of 2 comparisons do not hold**" in (out / "run.md").read_text("utf-8")
    events = list((project.path / "my events").glob("*/*/events.*"))
    assert len(events) == 4


def test_reports_from_the_ini_file(project: pytest.Pytester) -> None:
    project.makepyfile(TESTS)
    project.makeini(
        "[pytest]\nfwcompare = true\nfwcompare_report =\n    a.html\n    b.md\n"
        "fwcompare_tensorboard = tb\n"
    )
    project.runpytest().assert_outcomes(passed=1, failed=1)
    assert all((project.path / name).exists() for name in ("a.html", "b.md", "tb"))


def test_a_test_that_failed_before_comparing_is_in_the_report(project: pytest.Pytester) -> None:
    project.makepyfile(BROKEN)
    result = project.runpytest(
        "--fwcompare", "--fwcompare-report=run.json", "--fwcompare-frameworks=torch"
    )
    result.assert_outcomes(failed=3, errors=1, skipped=1)
    found = saved(project.path / "run.json")
    assert set(found) == {"test_mapping", "test_before", "test_setup"}
    assert {made["verdict"] for made in found.values()} == {"error"}
    before = "the test failed before anything was compared: "
    assert found["test_before"]["message"] == f"{before}ValueError: the model is not there"
    assert "MappingError: fc.weight fits" in found["test_mapping"]["message"]
    assert found["test_setup"]["message"] == f"{before}OSError: no such file"
    assert (found["test_setup"]["reference"], found["test_setup"]["port"]) == ("numpy", "torch")
    assert found["test_before"]["replay"].startswith("pytest --fwcompare ")


@pytest.mark.parametrize(
    ("option", "missing", "extra"),
    [
        ("--fwcompare-report=run.html", "vl_convert", "vl-convert-python"),
        ("--fwcompare-report=run.html", "jinja2", "jinja2"),
        ("--fwcompare-tensorboard=tb", "tensorboardX", "tensorboardX"),
    ],
)
def test_a_missing_package_is_said_before_anything_runs(
    project: pytest.Pytester,
    option: str,
    missing: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name)
    )
    project.makepyfile(TESTS)
    result = project.runpytest("--fwcompare", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    kind = "tensorboard" if "tensorboard" in option else "report"
    result.stderr.fnmatch_lines(
        [
            f"ERROR: fwcompare: {option}: needs {extra}, which is not installed: pip install "
            f"'pytest-fwcompare[[]{kind}]'"
        ]
    )
    result.stdout.no_fnmatch_line("*test_right*")
    project.runpytest(option).assert_outcomes(skipped=2)  # nothing is written without --fwcompare


def test_a_folder_for_event_files_that_is_a_file(project: pytest.Pytester) -> None:
    (project.path / "tb").write_text("")
    result = project.runpytest("--fwcompare", "--fwcompare-tensorboard=tb")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: fwcompare: --fwcompare-tensorboard=tb: expected a folder, this is a file"]
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_github_gets_annotations_and_a_summary(
    project: pytest.Pytester, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.path / "summary.md"
    summary.write_text("of an earlier step\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    project.makepyfile(TESTS)
    result = project.runpytest("--fwcompare", *workers)
    commands = [line for line in result.outlines if line.startswith("::")]
    assert len(commands) == 1
    assert commands[0].startswith(
        f"::error file={project.path.name}/test_github_gets_annotations_and_a_summary.py,line=6,"
        f"title=fwcompare%3A test_github_"
    )
    assert "semantic: the keras port does not compute" in commands[0]
    text = summary.read_text("utf-8")
    assert text.startswith("of an earlier step\n# Equivalence card\n")
    assert text.count("# Equivalence card") == 1


@pytest.mark.parametrize("value", [None, "", "false"])
def test_elsewhere_no_command_is_printed(
    project: pytest.Pytester, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    if value is not None:
        monkeypatch.setenv("GITHUB_ACTIONS", value)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    project.makepyfile(TESTS)
    result = project.runpytest("--fwcompare")
    assert not any(line.startswith("::") for line in result.outlines)
    assert not (project.path / "summary.md").exists()


def test_a_summary_that_cannot_be_written_is_a_warning(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path))
    project.makepyfile(TESTS)
    result = project.runpytest("--fwcompare")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["::warning::fwcompare: no step summary was written: *"])


SLOW = """
import time

import pytest_fwcompare
from pytest_fwcompare.progress import tell
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report import live

live.PATIENCE = live.EVERY = 0.05

def compare(reference, port, **keywords):
    tell("example", 3, 20)
    time.sleep(0.5)
    print("words of the model")
    return Comparison("equivalent", "torch", "keras")

def test_slow(fwcompare_port, monkeypatch):
    monkeypatch.setitem(vars(pytest_fwcompare), "compare", compare)
    fwcompare_port(None, None, inputs={})
"""


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """What pytest shows on a terminal of 24 lines of 100 columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "pytest", "--fwcompare", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TERM": "xterm"}
    running = subprocess.Popen(
        [*command, *arguments], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert running.wait() == 0, shown.decode()
    return shown.decode()


LIVE = (
    r"test_live.py \n\r\x1b\[Ktest_slow\[cpu-float32-eager\]: example 3 of 20, \d+ s"
    r"\x1b\[1A\x1b\[14G"
)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_progress_is_shown_on_a_terminal_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "test_live.py").write_text(SLOW)
    shown = on_a_terminal(tmp_path).replace("\r\n", "\n")
    assert re.search(LIVE, shown)
    assert "\n\r\x1b[K\x1b[1A\x1b[14G\x1b[32m.\x1b[0m" in shown  # gone when the dot comes
    assert "words of the model" not in shown


@pytest.mark.parametrize("missing", ["terminal", "logging", "capture", "junitxml"])
def test_plugins_of_pytest_s_own_may_be_missing(
    project: pytest.Pytester, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.makepyfile(TESTS)
    options = ["--fwcompare", "-p", f"no:{missing}", "--fwcompare-report=run.json"]
    assert project.runpytest(*options).ret == pytest.ExitCode.TESTS_FAILED
    assert set(saved(project.path / "run.json")) == {"test_right", "test_wrong"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize("option", ["-q", "-s", "-n1"])
def test_progress_is_silent(tmp_path: Path, option: str) -> None:
    (tmp_path / "test_live.py").write_text(SLOW)
    assert "example 3" not in on_a_terminal(tmp_path, option)


def test_progress_is_silent_without_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "test_live.py").write_text(SLOW)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fwcompare", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "example 3" not in done.stdout + done.stderr


def test_a_report_that_cannot_be_written_fails_the_run_and_no_other_report(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        "def test_right(fwcompare_port): fwcompare_port(0, 'equivalent', inputs={})"
    )
    (project.path / "file").write_text("")
    reports = ["--fwcompare-report=file/run.html", "--fwcompare-report=run.json"]
    result = project.runpytest("--fwcompare", *reports)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["error: *run.html was not written: *Error: *file*", "report: *run.json"]
    )
    assert set(saved(project.path / "run.json")) == {"test_right"}


def test_a_test_that_failed_though_its_comparison_holds_is_told(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_else(fwcompare_port):
            fwcompare_port("reference", "equivalent", inputs={})
            assert 1 == 2

        def test_right(fwcompare_port):
            fwcompare_port("reference", "equivalent", inputs={})
        """
    )
    reports = [f"--fwcompare-report=run{suffix}" for suffix in (".json", ".html", ".md")]
    project.runpytest("--fwcompare", *reports).assert_outcomes(passed=1, failed=1)
    data = json.loads((project.path / "run.json").read_text("utf-8"))
    outcomes = {
        entry["test"].split("::")[1][:9]: entry["outcome"] for entry in data["comparisons"]
    }
    assert outcomes == {"test_else": "failed", "test_righ": "passed"}
    card = (project.path / "run.md").read_text("utf-8")
    assert "**All 2 comparisons hold**" in card
    assert "- Tests: 1 failed though their comparisons hold" in card
    assert card.count("| equivalent (test failed) |") == 1
    assert "**test failed**, though the comparison holds" in card
    page = (project.path / "run.html").read_text("utf-8")
    assert page.count("<strong>test failed</strong>, though the comparison holds.") == 1
