"""Turns what a caller gives as reference or port into a side that can be run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Backend, Built
from pytest_fwcompare.backends.registry import imported_backends, owner, present
from pytest_fwcompare.devices import device_of
from pytest_fwcompare.errors import ModelError, UsageError, WorkerDied
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.opening import isolation
from pytest_fwcompare.sides import InFramework, Opened, check_backend


def open_side(given: Any, role: str, *, dtype: str, device: str, mode: str) -> Opened:
    """The side of a model, a factory that returns one, or a described network.

    Args:
        given: what the caller passed as `role`.
        role: "reference" or "port".
        dtype: working dtype.
        device: "cpu", "cuda[:N]", or the reference's and the port's: "cpu/cuda".
        mode: "eager", "graph" or "compiled".

    Raises:
        UsageError: it is nothing that can be compared.
        ModelError: building or adopting it failed.
        FrameworkUnavailable: the framework, device or dtype cannot be used here.
        WorkerDied: it is made in a worker, which died of it.
    """
    try:
        return _open(given, role, dtype=dtype, device=device_of(device, role), mode=mode)
    except WorkerDied as error:
        raise error.of(role) from None


def _open(given: Any, role: str, *, dtype: str, device: str, mode: str) -> Opened:
    own = False
    given = isolation.elsewhere(given, role)
    if _is_factory(given):
        with ExitStack() as stack:
            for known in imported_backends():
                stack.enter_context(known.placing(device))
            given, own = isolation.made_by(given, role, _call_factory), True
    if isinstance(given, Network):
        given = InFramework(given, "numpy")
    if isinstance(given, InFramework):
        backend = isolation.backend_of(given)
        if role == "reference" and given.framework == "numpy":
            device, mode = "cpu", "eager"  # the formulas have no other; the port's axes stand
        check_backend(backend, dtype, device, mode)
        built = backend.build(given.network, dtype=dtype, device=device)
        return _adopt(backend, built, role, dtype=dtype, device=device, mode=mode)
    try:
        backend = owner(given)
    except UsageError as error:
        raise UsageError(f"{role}: {_refusal(given) or error}") from None
    backend = present(backend)
    if backend.name == "numpy":
        device, mode = "cpu", "eager"  # it has no other; the other side's axes stand
    check_backend(backend, dtype, device, mode)
    side = backend.adopt(given, dtype=dtype, device=device, mode=mode, own=own)
    side.role = role
    return Opened(side, backend)


def _adopt(
    backend: Backend, built: Built, role: str, *, dtype: str, device: str, mode: str
) -> Opened:
    side = backend.adopt(built.model, dtype=dtype, device=device, mode=mode, own=True)
    side.role = role
    return Opened(
        side, backend, built.placements, built.input_axes, built.output_axes, built.notices
    )


def _is_factory(given: Any) -> bool:
    """A callable that can be called with no argument and is no model itself."""
    if isinstance(given, (Network, InFramework)) or not callable(given):
        return False
    if not isinstance(given, type):
        try:
            owner(given)
        except UsageError:
            pass
        else:
            return False
    try:
        parameters = inspect.signature(given).parameters.values()
    except (TypeError, ValueError):
        return False
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(
        parameter.default is not inspect.Parameter.empty or parameter.kind in skipped
        for parameter in parameters
    )


def _refusal(given: Any) -> str | None:
    """A better reason than that something is no model, where one is at hand."""
    if isinstance(given, (str, PathLike)):
        return (
            f"expected a model, got the path {str(given)!r}, which is no folder of a SavedModel; "
            f"load other files with their own framework and pass the model"
        )
    if isinstance(given, type):
        return (
            f"expected a model, got the class {given.__name__}, which cannot be made without "
            f"arguments; pass an instance, or a factory: lambda: {given.__name__}(...)"
        )
    if inspect.isfunction(given) or inspect.ismethod(given):
        return (
            f"expected a model, got the function {given.__qualname__}, which takes arguments and "
            f"no parameters; a factory takes none, a JAX function goes with its parameters: "
            f"({given.__name__}, params)"
        )
    return None


def _call_factory(factory: Any, role: str) -> Any:
    name = getattr(factory, "__qualname__", repr(factory))
    try:
        made = factory()
    except Exception as error:
        raise ModelError(
            role, "build", f"the factory {name} raised {type(error).__name__}: {error}"
        ) from error
    if made is None:
        raise UsageError(
            f"{role}: the factory {name} returned None; expected a model. Is a return missing?"
        )
    return made


def as_function(model: Any, *, dtype: str = "float32", device: str = "cpu") -> Callable[..., Any]:
    """Any model as a function of NumPy arrays, in inference mode.

    Args:
        model: of any framework, in its own axis order.
        dtype: working dtype.
        device: "cpu" or "cuda[:N]".

    Returns:
        A function of as many arrays as the model has inputs; it returns one array, or a dict of
        them by name where the model has several outputs.
    """
    opened = open_side(model, "model", dtype=dtype, device=device, mode="eager")

    def run(*arrays: Any) -> Any:
        named = [Argument(str(place), np.asarray(value)) for place, value in enumerate(arrays)]
        passed = opened.side.forward(named, precision="working", gradients=False)
        outputs = passed.outputs
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return run
