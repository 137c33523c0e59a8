"""How a twin is run: as it is, captured as a graph, or compiled."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

BACKENDS = {"graph": "aot_eager", "compiled": "inductor"}
"""What `torch.compile` does after it has captured the graph: run its operations, or compile."""

RECOMPILATIONS = 64
"""Shapes, modes and precisions after which torch would go back to eager calls in silence."""


def missing_compiler(device: str) -> str | None:
    """Why nothing can be compiled for the device, or None."""
    if device.startswith("cuda") and find_spec("triton") is None:
        return "torch.compile needs Triton for a GPU (pip install triton) and found none"
    wanted = os.environ.get("CXX", "g++")
    if device == "cpu" and not any(map(shutil.which, (wanted, "g++", "clang++", "cl"))):
        return "torch.compile needs a C++ compiler (g++ or clang++) and found none"
    return None


def runner(model: torch.nn.Module, mode: str) -> Callable[..., Any]:
    """The model as that mode runs it; compilation waits for the first call."""
    called: Callable[..., Any] = model
    if mode != "eager":
        with _quiet():
            called = torch.compile(model, backend=BACKENDS[mode])
    return called


def running(mode: str) -> contextlib.AbstractContextManager[Any]:
    """Around a call of what `runner` gave."""
    return contextlib.nullcontext() if mode == "eager" else _captured()


@contextlib.contextmanager
def _captured() -> Iterator[None]:
    import torch._dynamo

    with _quiet(), torch._dynamo.config.patch(recompile_limit=RECOMPILATIONS):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the deprecations that torch's own compiler trips over when it is imported.

    And without what pytest adds to torch's trace, which is for a file of its own (TORCH_TRACE):
    torch traces as soon as anybody listens, and a test that fails shows hundreds of empty lines.
    """
    trace = logging.getLogger("torch.__trace")
    before = trace.handlers
    trace.handlers = [h for h in before if not type(h).__module__.startswith("_pytest.")]
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.filterwarnings("ignore", category=kind, module=r"torch(\.|$)")
            yield
    finally:
        trace.handlers = before
