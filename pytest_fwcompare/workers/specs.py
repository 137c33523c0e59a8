"""How a worker is started: what `--fwcompare-worker NAME=SPEC` says, and what follows from a name.

Imports neither NumPy nor execnet, for options are read by every run of pytest.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache

from pytest_fwcompare.errors import UsageError

KERAS_BACKENDS = ("torch", "jax", "tensorflow", "numpy")
"""Tags of "keras@..." that need no worker of their own: they set KERAS_BACKEND."""

KINDS = ("popen", "ssh=", "socket=", "vagrant_ssh=", "via=")

PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"
PROBE_S = 60.0


@dataclass(frozen=True)
class Spec:
    """An execnet specification, such as "popen//python=/usr/bin/python3" or "socket=host:8888"."""

    text: str = "popen"

    @property
    def own_process(self) -> bool:
        """True if the worker is a process that this one starts, on this host."""
        return self.text.split("//")[0] == "popen"

    @property
    def ends_with_us(self) -> bool:
        """True if the worker is a process for this one alone, here or behind ssh.

        The process behind a socket is a server of others, too.
        """
        return self.own_process or "ssh=" in self.text.split("//")[0]

    @property
    def python(self) -> str | None:
        """The interpreter's command, where the specification has one."""
        found = [part for part in self.text.split("//") if part.startswith("python=")]
        return found[0].removeprefix("python=") if found else None

    def refusal(self) -> str | None:
        """Why the interpreter cannot be started on this host; None if it can, or is elsewhere."""
        if not self.own_process or self.python is None:
            return None
        return _refusal(self.python)

    def __str__(self) -> str:
        return self.python or (sys.executable if self.text == "popen" else self.text)


@cache
def _refusal(command: str) -> str | None:
    """A worker that is no Python would never answer, so it is looked at first."""
    import shlex
    import subprocess

    try:
        found = subprocess.run(
            [*shlex.split(command), "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, ValueError) as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"{command} did not run a line of Python within {PROBE_S:.0f} s"
    if re.fullmatch(r"\d+\.\d+\s*", found.stdout) is None:
        said = (found.stderr or found.stdout).strip().splitlines()
        return f"{command} is no Python interpreter{f': {said[-1]}' if said else ''}"
    return None


def parse_spec(text: str, where: str) -> Spec:
    """A specification: a path of an interpreter, or one of execnet.

    Raises:
        UsageError: it is neither.
    """
    if text.startswith(KINDS):
        if any(not part for part in text.split("//")):
            raise UsageError(f"{where}: {text!r} has an empty part between its slashes")
        return Spec(text)
    if not text or "=" in text.partition("/")[0]:
        raise UsageError(
            f"{where}: expected the path of a Python interpreter or an execnet specification "
            f"(popen//python=PATH, ssh=HOST, socket=HOST:PORT), got {text!r}"
        )
    return Spec(f"popen//python={text}")


def parse_name(name: str, where: str) -> tuple[str, str]:
    """Framework and tag of "torch" or "torch@old".

    Raises:
        UsageError: it is no such name.
    """
    framework, _, tag = name.partition("@")
    if not re.fullmatch(r"[A-Za-z_]\w*(@[\w.+-]+)?", name):
        raise UsageError(f"{where}: expected a name such as torch or torch@old, got {name!r}")
    return framework, tag


def environment_of(name: str) -> dict[str, str]:
    """Variables that a worker of that name needs."""
    framework, _, tag = name.partition("@")
    backend = tag.partition("@")[0]
    return {"KERAS_BACKEND": backend} if framework == "keras" and backend in KERAS_BACKENDS else {}
