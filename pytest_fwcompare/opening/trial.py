"""Tries a model in a worker before this process runs it: whether it survives."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Hashable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from pytest_fwcompare.comparing.request import Request
from pytest_fwcompare.errors import FwcompareError, UsageError, WorkerDied
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.networks.plain import to_plain
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.opening.isolation import framework_of, model_of_factory, stays_here
from pytest_fwcompare.sides import InFramework, Opened
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.live import put_down
from pytest_fwcompare.workers.sources import source_of

EXAMPLES = 3
"""Sizes that are tried."""

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def open_guarded(given: Any, role: str, request: Request, **axes: Any) -> Opened:
    """As `open_side`; under `--fwcompare-isolate=crash` in a worker what this process fears.

    What is known to crash goes to a worker at once. Anything else is run once in one, forward and
    backward; what dies of it stays there, so that the comparison says so. What cannot be tried
    runs here, with a notice.

    Args:
        given: what was passed as `role`.
        role: "reference" or "port".
        request: of the comparison; its first examples are what is tried.
        axes: of `open_side`.
    """
    if pool.current().settings.isolate != "crash" or stays_here(given, described=False):
        return open_side(given, role, **axes)
    try:
        candidate = Candidate.of(given)
    except UsageError as error:
        opened = open_side(given, role, **axes)
        said = f"{role}: not tried in a worker (--fwcompare-isolate=crash) before it ran: {error}"
        return replace(opened, notices=(*opened.notices, said))
    if candidate.is_known() or dies(candidate, role, request):
        given = candidate.model(role)
    else:
        candidate.tidy()
    return open_side(given, role, **axes)


@dataclass(frozen=True)
class Candidate:
    """A model that could run in a worker.

    Attributes:
        given: a described network with its framework, or what a worker makes a model of.
        key: what it is, so that it is tried once.
        framework: whose it is; "" for a factory, which has to be asked.
        file: what was written for the worker; None if nothing was.
    """

    given: Any
    key: Hashable
    framework: str = ""
    file: Path | None = None

    @classmethod
    def of(cls, given: Any) -> Candidate:
        """From what was passed as a role.

        Raises:
            UsageError: no worker can make it, and why.
        """
        if isinstance(given, InFramework):
            return cls(given, (repr(to_plain(given.network)), given.framework))
        framework = framework_of(given)
        if not framework or isinstance(given, (str, os.PathLike)):
            source = source_of(given)
            return cls(source, tuple(sorted(source.items())), framework)
        source = put_down(given, framework)
        path = Path(source["path"])
        return cls(source, (framework, contents(path)), framework, path)

    def is_known(self) -> bool:
        """Whether it is known to crash."""
        given = self.given
        if not isinstance(given, InFramework):
            return False
        return known_danger(given.network, given.framework) is not None

    def model(self, role: str) -> Any:
        """What `open_side` opens in a worker."""
        from pytest_fwcompare.workers.remote import RemoteBackend, RemoteModel

        if isinstance(self.given, InFramework):
            return replace(self.given, apart=True)
        if self.framework:
            return RemoteModel(RemoteBackend(self.framework), self.given)
        return model_of_factory(self.given, role)

    def tidy(self) -> None:
        """Nobody will ask a worker for it again."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def contents(path: Path) -> str:
    """What tells the files of two models apart; a `.keras` file says when it was saved, too."""
    if path.suffix != ".keras":
        return sha256(path.read_bytes()).hexdigest()
    with ZipFile(path) as archive:
        members = [each for each in archive.infolist() if each.filename != "metadata.json"]
        return str(sorted((each.filename, each.CRC) for each in members))


def dies(candidate: Candidate, role: str, request: Request) -> bool:
    """Whether a worker dies of making, running or differentiating it. Asked once a model."""
    found = pool.current().deaths
    key = (candidate.key, request.dtype, request.device, request.mode)
    if key not in found:
        found[key] = _dies(candidate, role, request)
    return found[key]


def _dies(candidate: Candidate, role: str, request: Request) -> bool:
    try:
        opened = open_side(
            candidate.model(role),
            role,
            dtype=request.dtype,
            device=request.device,
            mode=request.mode,
        )
    except WorkerDied:
        return True
    except FwcompareError:
        return False  # what it is about is said when it runs in this process
    try:
        _run(opened, role, request)
    except WorkerDied:
        return True
    except FwcompareError:
        return False
    finally:
        with contextlib.suppress(FwcompareError):
            opened.side.close()
    return False


def _run(opened: Opened, role: str, request: Request) -> None:
    """Forward and backward, as the comparison will."""
    from pytest_fwcompare.inputs.search import telling_example
    from pytest_fwcompare.running.points import arguments

    plan, side = request.plan, opened.side
    backward = "backward" in request.checks and opened.backend.can_differentiate
    for example in [telling_example(plan), *plan.planned(EXAMPLES)]:
        given = arguments(plan, opened, role, plan.arrays(example))
        side.prepare(given)
        for precision in ("working", "double"):
            passed = side.forward(given, precision=precision, gradients=backward)
            if backward:
                passed.backward(_ones(passed.outputs))


def _ones(outputs: Any) -> dict[str, np.ndarray]:
    return {
        name: np.ones(value.shape, value.dtype)
        for name, value in outputs.items()
        if value.dtype.kind == "f"
    }


# What is known to crash --------------------------------------------------------------------------


def onednn_is_on() -> bool:
    """Whether TensorFlow in this process computes, or will compute, with oneDNN."""
    if "tensorflow" not in sys.modules:
        # This package switches it off before the import unless the user has spoken.
        return os.environ.get(ONEDNN, "0") != "0"
    from pytest_fwcompare.backends.tensorflow.state import onednn_is_active

    return onednn_is_active()


def strided_point(network: Network) -> str | None:
    """The first convolution of kernel size 1 and a stride above 1; None if there is none."""
    for name, layer in network.layers.items():
        kernel, stride = getattr(layer, "kernel_size", None), getattr(layer, "stride", None)
        if kernel is not None and stride is not None and np.max(kernel) == 1 < np.max(stride):
            return name
    return None


def known_danger(network: Network, framework: str) -> str | None:
    """Why a described network may take the process down; None if nothing is known against it.

    TensorFlow 2.21 with oneDNN corrupts memory in the float32 filter gradient of 1x1 convolutions
    with a stride: glibc's checks say "free(): invalid pointer", or the process dies much later.
    """
    if framework not in ("tensorflow", "keras") or not onednn_is_on():
        return None
    name = strided_point(network)
    return None if name is None else f"{name}: 1x1 with a stride, on TensorFlow with oneDNN"
