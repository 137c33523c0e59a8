"""The options of workers, and whole runs in which sides live and die in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_S = 600
"""Until a test gives up; on a busy machine the import of a framework can take minutes."""

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")

MODELS = """
import ctypes
import os
import torch

def right():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)

class Dies(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        print("about to fall", flush=True)
        ctypes.string_at(0)

def dies():
    return Dies()

class Leaves(Dies):
    def forward(self, x):
        os._exit(5)

def leaves():
    return Leaves()
"""

TESTS = """
import os
from pytest_fwcompare import TensorSpec, networks as fn
from models import dies, leaves, right

INPUTS = {"x": TensorSpec(("batch", 3))}

def test_right(fwcompare_port):
    made = fwcompare_port(right, right, inputs=INPUTS)
    print("ENVIRONMENT", made.environment)

def test_dies(fwcompare_port):
    fwcompare_port(right, dies, inputs=INPUTS)

def test_leaves(fwcompare_port):
    fwcompare_port(leaves, right, inputs=INPUTS)

def test_network(fwcompare_network):
    net = fn.Sequential([fn.Dense(2)], input_shape=(3,))
    made = fwcompare_network(net)
    print("PID", os.getpid(), made.environment)
"""


@pytest.fixture
def torch_project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(models=MODELS, test_it=TESTS)
    pytester.makeini("[pytest]\npythonpath = .\n")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "--fwcompare",
        "--fwcompare-frameworks=torch",
        "--fwcompare-examples=2",
        "--fwcompare-no-timings",
        *options,
        timeout=PATIENCE_S,
    )


def flat(found: pytest.RunResult) -> str:
    """The output without pytest's margin and line breaks."""
    lines = (line.removeprefix("E ") for line in found.stdout.lines)
    return " ".join(" ".join(lines).split())


@needs_linux
@pytest.mark.parametrize("isolate", ["framework", pytest.param("crash", marks=pytest.mark.slow)])
def test_a_death_is_a_result_and_the_run_goes_on(torch_project, isolate):
    found = run(torch_project, f"--fwcompare-isolate={isolate}", "-rA")
    found.assert_outcomes(passed=2, failed=2)
    text = flat(found)
    assert "port, forward: the worker 'torch'" in text
    assert "killed by signal 11 (SIGSEGV: segmentation fault); the last lines it wrote" in text
    assert "about to fall" in text
    assert "reference, forward: the worker 'torch'" in text
    assert "exited with status 5 in the middle of its work" in text
    assert f"--fwcompare-isolate={isolate}" in text  # in the command that replays it
    assert ("'worker': {" in text) == (isolate == "framework")


def test_models_that_cannot_cross_are_told_what_to_do(pytester):
    pytester.makepyfile(
        """
        import torch
        from pytest_fwcompare import TensorSpec

        def test_live(fwcompare_port):
            model = torch.nn.Linear(3, 2)
            fwcompare_port(model, model, inputs={"x": TensorSpec(("batch", 3))})

        def test_inner(fwcompare_port):
            def inner():
                return torch.nn.Linear(3, 2)
            made = fwcompare_port(inner, inner, inputs={"x": TensorSpec(("batch", 3))})
            print(*made.notices)
        """
    )
    found = run(pytester, "--fwcompare-isolate=framework")
    found.assert_outcomes(passed=1, failed=1)
    text = flat(found)
    assert "reference: --fwcompare-isolate=framework runs every model in a worker, but" in text
    assert "define it at the top of its module (no lambda, no function inside" in text
    found = run(pytester, "--fwcompare-isolate=crash", "-rA")
    found.assert_outcomes(passed=2)
    assert "reference: not tried in a worker (--fwcompare-isolate=crash) before it" in flat(found)


def test_a_worker_of_another_name_is_an_axis_like_any_framework(torch_project):
    found = run(
        torch_project,
        f"--fwcompare-worker=torch@other={sys.executable}",
        "--fwcompare-frameworks=torch,torch@other",
        "-k",
        "test_network",
        "-v",
    )
    found.assert_outcomes(passed=2)
    found.stdout.fnmatch_lines(["*test_network*torch@other-cpu-float32-eager*PASSED*"])


@pytest.mark.slow
def test_the_ini_file_names_workers_too(torch_project):
    torch_project.makeini(
        f"[pytest]\npythonpath = .\nfwcompare_worker =\n  torch@ini={sys.executable}\n"
        "fwcompare_timeout = 50\nfwcompare_isolate = none\n"
    )
    found = run(torch_project, "--fwcompare-frameworks=torch@ini", "-k", "test_network")
    found.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (
            "--fwcompare-isolate=all",
            "--fwcompare-isolate: unknown 'all'; expected one of none",
        ),
        ("--fwcompare-timeout=soon", "--fwcompare-timeout: expected a number of seconds above 0"),
        ("--fwcompare-timeout=0", "--fwcompare-timeout: expected a number of seconds above 0"),
        ("--fwcompare-timeout=inf", "--fwcompare-timeout: expected a number of seconds above 0"),
        ("--fwcompare-worker=torch", "--fwcompare-worker: expected NAME=SPEC, such as torch@old"),
        (
            "--fwcompare-worker=to rch=x",
            "expected a name such as torch or torch@old, got",
        ),
        (
            "--fwcompare-worker=torch=a=b",
            "--fwcompare-worker torch: expected the path of a",
        ),
        ("--fwcompare-worker=torch=popen//", "has an empty part between its slashes"),
    ],
)
def test_mistakes_are_named_before_anything_runs(torch_project, option, complaint):
    found = torch_project.runpytest_subprocess("--fwcompare", option)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in found.stderr.str()


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("/nowhere/python", "No such file or directory: '/nowhere/python'"),
        ("/bin/false", "/bin/false is no Python interpreter"),
    ],
)
def test_an_interpreter_that_is_none_is_named(torch_project, spec, complaint):
    found = torch_project.runpytest_subprocess(
        "--fwcompare", f"--fwcompare-worker=torch@x={spec}", "--fwcompare-frameworks=torch@x"
    )
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in found.stderr.str()
    assert "framework 'torch@x' was asked for, but" in found.stderr.str()


def test_a_tag_that_nobody_explained(torch_project):
    found = torch_project.runpytest_subprocess("--fwcompare", "--fwcompare-frameworks=torch@old")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert "no worker 'torch@old': say where it runs with --fwcompare-worker" in found.stderr.str()


# Nothing is left behind ------------------------------------------------------------------------

HANGS = """
import os
from pathlib import Path
from pytest_fwcompare import TensorSpec
from models import hangs, right

def test_hangs(fwcompare_port):
    fwcompare_port(right, hangs, inputs={"x": TensorSpec(("batch", 3))})
"""

HANGING = """
import os
import time
from pathlib import Path
import torch

HERE = Path(__file__).parent

def right():
    return torch.nn.Linear(3, 2)

class Hangs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        (HERE / "begun").write_text(str(os.getpid()))
        (HERE / "begun").replace(HERE / "pid")
        LOOP

def hangs():
    return Hangs()
"""

JUMPS = """
import time
from pathlib import Path
from types import SimpleNamespace
from pytest_fwcompare.workers import process

HANGS = Path(__file__).parent / "pid"
process.time = SimpleNamespace(monotonic=lambda: time.monotonic() + 10000 * HANGS.exists())
"""
"""A clock that jumps once the worker hangs, so that neither waits for the other."""

LOOPS = {
    "in Python": "while True: time.sleep(0.01)",
    # The regular expression backtracks for ever and holds the interpreter's lock all the while.
    "holding the lock": "import re; re.match(r'(a|a)*b', 'a' * 64)",
}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@needs_linux
@pytest.mark.parametrize(
    ("loop", "number"),
    [
        pytest.param("holding the lock", signal.SIGKILL, id="killed, lock held"),
        pytest.param("in Python", signal.SIGINT, id="Ctrl-C"),
        pytest.param("in Python", signal.SIGKILL, id="killed", marks=pytest.mark.slow),
        pytest.param(
            "holding the lock", signal.SIGINT, id="Ctrl-C, lock held", marks=pytest.mark.slow
        ),
    ],
)
def test_no_worker_outlives_the_run(pytester, loop, number):
    pytester.makepyfile(models=HANGING.replace("LOOP", LOOPS[loop]), test_it=HANGS)
    pytester.makeini("[pytest]\npythonpath = .\n")
    # A run in the background of a shell ignores Ctrl-C, and so would every process that it starts.
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start = hears + "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "--fwcompare", "--fwcompare-isolate=framework"]
    with subprocess.Popen(
        command, cwd=pytester.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        told = pytester.path / "pid"
        assert wait_until(told.exists, PATIENCE_S)
        pid = int(told.read_text())
        assert is_alive(pid)
        os.kill(running.pid, number)
        running.wait(timeout=PATIENCE_S)
    assert wait_until(lambda: not is_alive(pid), PATIENCE_S), f"worker {pid} is still there"


@needs_linux
def test_a_hang_is_a_result(pytester):
    pytester.makepyfile(models=HANGING.replace("LOOP", LOOPS["in Python"]), test_it=HANGS)
    pytester.makeini("[pytest]\npythonpath = .\n")
    pytester.makeconftest(JUMPS)
    found = run(pytester, "--fwcompare-isolate=framework", "--fwcompare-timeout=999")
    found.assert_outcomes(failed=1)
    assert "gave no answer for 999 s (--fwcompare-timeout) and was killed" in flat(found)
    assert not is_alive(int((pytester.path / "pid").read_text()))
