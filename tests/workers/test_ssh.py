"""Workers behind ssh, whose server starts for each connection as a proxy: no port, no daemon."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import FrameworkUnavailable
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool, process
from pytest_fwcompare.workers.specs import parse_spec
from workers import models
from workers.test_deaths import TIMEOUT_S, Clock

INPUTS = {"x": fwc.TensorSpec(("batch", 3))}

SERVER = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
PermitRootLogin yes
"""

CLIENT = """
Host far
  ProxyCommand {sshd} -i -f {folder}/sshd_config
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  StrictHostKeyChecking no
  BatchMode yes
  LogLevel ERROR
Host nowhere
  ProxyCommand false
  BatchMode yes
"""


def tool(name: str) -> str:
    """Where a program of OpenSSH is."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"OpenSSH's {name} is not installed here")
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A configuration of ssh by which `far` is this host, with keys made for it."""
    folder = tmp_path_factory.mktemp("ssh")
    ssh, sshd = tool("ssh"), tool("sshd")
    for name in ("host", "user"):
        command = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "sshd_config").write_text(SERVER.format(folder=folder))
    made = folder / "ssh_config"
    made.write_text(CLIENT.format(folder=folder, sshd=sshd))
    command = [ssh, "-F", str(made), "far", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"ssh cannot reach this host: {tried.stderr.strip()[-300:]}")
    return made


@pytest.fixture(scope="module")
def hosts(config):
    """A pool whose torch@far is behind ssh; the file by which a worker says that it hangs."""
    told = config.with_name("hangs")
    package = Path(fwc.__file__).parents[1]
    variables = f"PYTHONPATH={package}:{package / 'tests'} OMP_NUM_THREADS=1"
    python = f"env {variables} FWCOMPARE_TEST_HANGS={told} {sys.executable}"
    specs = {
        "torch@far": parse_spec(f"ssh=far//ssh_config={config}//python={python}", "test"),
        "torch@nowhere": parse_spec(f"ssh=nowhere//ssh_config={config}", "test"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "time", Clock(told))
        before = pool.configure(pool.Settings(timeout=TIMEOUT_S, specs=specs))
        yield pool.current()
        pool.put_back(before)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_host_behind_ssh_is_compared(hosts):
    comparison = fwc.compare(
        models.with_buffers,
        fwc.in_worker("torch@far", "workers.models:with_buffers"),
        inputs=INPUTS,
        examples=2,
        checks=("forward", "backward", "training"),
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    told = comparison.environment["torch@far"]["worker"]
    assert told["spec"].endswith(sys.executable)
    assert told["pid"] != os.getpid()
    large = fn.Sequential([fn.Dense(200)], input_shape=(500,))
    comparison = fwc.compare(
        InFramework(large, "numpy"),
        InFramework(large, "torch@far"),
        inputs=large.inputs,
        examples=2,
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    assert hosts.started == {"torch@far": 1}


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("exit", "exited with status 3 in the middle of its work"),
        ("kill", "is gone (ssh: the connection ended, or a signal killed it)"),
        ("loop", "gave no answer for 1000 s (--fwcompare-timeout) and was killed"),
    ],
)
def test_a_death_there_is_a_result_and_leaves_no_process(hosts, death, said):
    pid = hosts.worker("torch@far").pid
    comparison = fwc.compare(
        models.plain,
        fwc.in_worker("torch@far", f"workers.models:{death}_in_forward"),
        inputs=INPUTS,
        examples=2,
    )
    assert comparison.verdict == "error"
    assert "port, forward: the worker 'torch@far' (" in comparison.message
    assert said in comparison.message
    assert "it wrote nothing" not in comparison.message  # nobody here knows
    while is_alive(pid):  # pytest-timeout's or the user's patience, if it is left behind
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_host_that_cannot_be_reached_is_named(hosts):
    """Execnet leaves the pipes of the ssh that could not connect to the garbage collector."""
    with pytest.raises(FrameworkUnavailable, match=r"'torch@nowhere' was asked for, but ssh=now"):
        fwc.compare(
            models.plain, fwc.in_worker("torch@nowhere", "workers.models:plain"), inputs=INPUTS
        )
    gc.collect()  # here, not in the middle of another test
