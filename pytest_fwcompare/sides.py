"""What an opened side is, and what may be asked of one before it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_fwcompare.backends.base import Backend, Placement, Side
from pytest_fwcompare.devices import FORMS, is_among, is_device, why_not
from pytest_fwcompare.errors import FrameworkUnavailable, UsageError
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
