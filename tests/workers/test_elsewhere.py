"""Workers in other interpreters, and on other hosts that the loopback interface plays."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import execnet
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import FrameworkUnavailable
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import bootstrap, pool, process
from pytest_fwcompare.workers.specs import Spec, parse_spec
from workers import models

INPUTS = {"x": fwc.TensorSpec(("batch", 3))}


@pytest.fixture
def configured():
    """A pool with the given specifications, put back afterwards."""
    before = []

    def configure(specs: dict[str, Spec]) -> pool.Pool:
        before.append(pool.configure(pool.Settings(timeout=600.0, specs=specs)))
        return pool.current()

    yield configure
    pool.put_back(before[0])


@pytest.fixture
def servers(tmp_path):
    """Two socket servers as other hosts would run them; their addresses."""
    script = Path(execnet.__file__).parent / "script" / "socketserver.py"
    package = Path(fwc.__file__).parents[1]
    environment = {"PYTHONPATH": f"{package}:{package / 'tests'}", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        addresses = []
        for _ in range(2):
            running = subprocess.Popen(
                [sys.executable, "-u", str(script), "127.0.0.1:0"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.enter_context(running)
            stack.callback(running.kill)
            assert running.stdout is not None
            said = running.stdout.readline()  # "... Entering Accept loop ('127.0.0.1', 43527)"
            addresses.append(f"127.0.0.1:{int(said.rpartition(', ')[2].rstrip(')' + chr(10)))}")
        yield addresses


def test_two_hosts_are_compared(servers, configured):
    workers = configured(
        {
            f"torch@{n}": parse_spec(f"socket={address}", "test")
            for n, address in enumerate(servers)
        }
    )
    comparison = fwc.compare(
        fwc.in_worker("torch@0", "workers.models:with_buffers"),
        fwc.in_worker("torch@1", "workers.models:with_buffers"),
        inputs=INPUTS,
        examples=2,
        checks=("forward", "backward", "training"),
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    pids = {comparison.environment[f"torch@{n}"]["worker"]["pid"] for n in range(2)}
    assert len(pids) == 2
    assert workers.started == {"torch@0": 1, "torch@1": 1}
    large = fn.Sequential([fn.Dense(200)], input_shape=(500,))
    comparison = fwc.compare(
        InFramework(large, "numpy"), InFramework(large, "torch@0"), inputs=large.inputs, examples=2
    )
    assert comparison.verdict == "equivalent", comparison.summary()


def test_a_host_that_goes_away_is_a_result(servers, configured):
    configured({"torch@far": parse_spec(f"socket={servers[0]}", "test")})
    comparison = fwc.compare(
        models.plain,
        fwc.in_worker("torch@far", "workers.models:exit_in_forward"),
        inputs=INPUTS,
        examples=2,
    )
    assert comparison.verdict == "error"
    assert "port, forward: the worker 'torch@far' (socket=127.0.0.1:" in comparison.message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_host_that_is_not_there(configured):
    """Execnet leaves the socket that could not connect to the garbage collector."""
    configured({"torch@far": parse_spec("socket=127.0.0.1:1", "test")})
    with pytest.raises(FrameworkUnavailable, match=r"'torch@far' was asked for, but socket=127"):
        fwc.compare(
            models.plain, fwc.in_worker("torch@far", "workers.models:plain"), inputs=INPUTS
        )
    gc.collect()  # here, not in the middle of another test


# Refusals on connecting ------------------------------------------------------------------------


def test_a_framework_that_only_the_worker_has_is_no_obstacle(configured, monkeypatch):
    from pytest_fwcompare.backends import registry
    from pytest_fwcompare.backends.numpy import NumpyBackend

    monkeypatch.setattr(NumpyBackend, "unavailable", lambda self: "it is not installed")
    with pytest.raises(FrameworkUnavailable, match="it is not installed"):
        registry.require("numpy")
    configured({"numpy": Spec(f"popen//python={sys.executable}")})
    found = registry.require("numpy")
    assert found.environment()["worker"]["pid"] == pool.current().worker("numpy").pid


def test_another_protocol_is_refused(configured, monkeypatch):
    configured({"numpy@w": Spec()})
    monkeypatch.setattr(process, "PROTOCOL", 99)
    complaint = r"expected pytest-fwcompare \S+ \(protocol 99\), the worker has \S+ \("
    with pytest.raises(FrameworkUnavailable, match=complaint):
        pool.current().worker("numpy@w")


def test_another_version_is_refused(configured, monkeypatch):
    configured({"numpy@w": Spec()})
    monkeypatch.setattr(fwc, "__version__", "99.0")
    with pytest.raises(
        FrameworkUnavailable,
        match=r"expected pytest-fwcompare 99\.0 .*install pytest-fwcompare==9",
    ):
        pool.current().worker("numpy@w")


CONFIG = {"package": "/nowhere", "version": "0", "protocol": 0}


class TestRefusal:
    def test_an_old_python(self, monkeypatch):
        monkeypatch.setattr(bootstrap, "LEAST_PYTHON", (9, 0))
        assert bootstrap.refusal(CONFIG).startswith("Python 9.0 or newer is needed there, th")

    def test_no_numpy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "numpy", None)
        assert bootstrap.refusal(CONFIG).startswith("NumPy cannot be imported there (Modul")

    def test_no_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pytest_fwcompare", None)
        assert "install pytest-fwcompare==0 there" in bootstrap.refusal(CONFIG)


# Another environment ---------------------------------------------------------------------------


def environment(folder: Path, *packages: str) -> str:
    """An interpreter of a new virtual environment with these packages and nothing else."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False
    )
    python = str(folder / "bin" / "python")
    if made.returncode == 0:
        made = subprocess.run(
            [python, "-m", "pip", "install", "-q", *packages],
            capture_output=True,
            text=True,
            check=False,
        )
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines()
        pytest.skip(f"no environment with {packages[0]} can be made: {said[-1] if said else ''}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "versions", "needed"),
    [
        ("numpy", {"old": "1.26.4", "new": "2.2.6"}, ["autograd"]),
        ("jax", {"old": "0.9.2", "new": "0.10.2"}, []),
    ],
)
def test_two_environments_are_compared_in_one_test(
    tmp_path, configured, framework, versions, needed
):
    specs = {}
    for tag, version in versions.items():
        python = environment(tmp_path / tag, f"{framework}=={version}", *needed)
        specs[f"{framework}@{tag}"] = parse_spec(python, "test")
    workers = configured(specs)
    network = fn.Sequential(
        [fn.Conv2D(3, 3), fn.BatchNorm(), fn.Activation("gelu"), fn.Flatten(), fn.Dense(3)],
        input_shape=(6, 6, 2),
    )
    comparison = fwc.compare(
        InFramework(network, f"{framework}@old"),
        InFramework(network, f"{framework}@new"),
        inputs=network.inputs,
        examples=3,
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    for tag, version in versions.items():
        told = comparison.environment[f"{framework}@{tag}"]
        assert told["version"] == version
        assert framework != "numpy" or told["worker"]["numpy"] == version
    assert set(workers.started.values()) == {1}
