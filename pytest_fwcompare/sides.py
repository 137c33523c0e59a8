"""Turns what a caller gives as reference or port into a side that can be run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Backend, Built, Placement, Side
from pytest_fwcompare.backends.registry import imported_backends, owner, present
from pytest_fwcompare.devices import FORMS, device_of, is_among, is_device, why_not
from pytest_fwcompare.errors import FrameworkUnavailable, ModelError, UsageError, WorkerDied
from pytest_fwcompare.formats import DTYPES
from pytest_fwcompare.networks.graph import Network

MODES = ("eager", "graph", "compiled")


@dataclass(frozen=True)
class InFramework:
    """A described network to be built in a framework of one's choice.

    Attributes:
        network: the description.
        framework: import name, with a tag for a worker of that name: "keras@jax".
        apart: build and run it in a worker in any case.
    """

    network: Network
    framework: str
    apart: bool = False


@dataclass(frozen=True)
class Opened:
    """A side with what is known of its layout.

    Attributes:
        side: what runs.
        backend: whose it is.
        placements: where canonical parameters live, for a described network; None otherwise.
        input_axes, output_axes: permutations from canonical (for described networks) to native.
    """

    side: Side
    backend: Backend
    placements: tuple[Placement, ...] | None = None
    input_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def check_axes(dtype: str, device: str, mode: str) -> None:
    """Refuse unknown values of the axes before anything is built.

    Raises:
        UsageError: with the values there are.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype: unknown {dtype!r}; the dtypes are {', '.join(DTYPES)}")
    if mode not in MODES:
        raise UsageError(f"mode: unknown {mode!r}; the modes are {', '.join(MODES)}")
    if not isinstance(device, str) or not is_device(device):
        raise UsageError(f"device: unknown {device!r}; devices are {FORMS}")
    if reason := why_not(dtype, device):
        raise FrameworkUnavailable(reason)


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
    from pytest_fwcompare.workers import isolation

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


def check_backend(backend: Backend, dtype: str, device: str, mode: str) -> None:
    """Refuse what the framework cannot do here.

    Raises:
        FrameworkUnavailable: with the reason.
    """
    if dtype not in backend.dtypes:
        raise FrameworkUnavailable(
            f"dtype {dtype!r} was asked for, but {backend.name} computes in "
            f"{', '.join(backend.dtypes)}"
        )
    if mode not in backend.modes:
        raise FrameworkUnavailable(
            f"mode {mode!r} was asked for, but {backend.name} has {', '.join(backend.modes)}"
        )
    if device == "cpu":
        return
    names = backend.device_names() if "cuda" in backend.devices else ["cpu"]
    if not is_among(device, names):
        raise FrameworkUnavailable(
            f"device {device!r} was asked for, but {backend.name} sees {', '.join(names)} here"
        )


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
