"""Whether a case can run here: asked for by name and impossible fails, defaults skip."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_fwcompare.backends.base import Backend
from pytest_fwcompare.backends.registry import placed
from pytest_fwcompare.devices import device_of, kind_of, why_not
from pytest_fwcompare.errors import FrameworkUnavailable, UsageError
from pytest_fwcompare.options import Case


@dataclass(frozen=True)
class Obstacle:
    """Why a case cannot run; `fails` if somebody asked for it by name."""

    reason: str
    fails: bool


def obstacle(case: Case) -> Obstacle | None:
    """What stands in the way of a case, or None.

    A device of a kind other than the CPU is looked for with the framework, which imports it.
    """
    if case.framework is None:
        return None
    named = case.named
    try:
        found = placed(case.framework)
    except UsageError as error:
        return Obstacle(str(error), fails=True)
    except Exception as error:  # a backend registered by others cannot be imported
        why = f"its backend cannot be loaded: {type(error).__name__}: {error}"
        return Obstacle(f"framework {case.framework!r}: {why}", "frameworks" in named)
    if reason := found.unavailable():
        return Obstacle(f"framework {case.framework!r}: {reason}", "frameworks" in named)
    if reason := lacks(found, case):
        axis = reason.partition(":")[0]
        return Obstacle(reason, {"frameworks", f"{axis}s"} <= named)
    if reason := why_not(case.dtype, case.device):
        # Both may be right, each with another; nobody asks for the default device with this dtype.
        return Obstacle(reason, "dtypes" in named and "devices" not in named)
    device = device_of(case.device, "port")
    if device != "cpu" and (reason := absent(found, device)):
        return Obstacle(reason, "devices" in named)
    if case.mode is not None and (reason := found.lacking(case.mode, device)):
        return Obstacle(f"mode {case.mode!r}: {reason}", fails=False)
    return None


def lacks(found: Backend, case: Case) -> str | None:
    """Which value of the axes the backend has not learnt."""
    for axis, value, known in (
        ("device", kind_of(device_of(case.device, "port")), found.devices),
        ("dtype", case.dtype, found.dtypes),
        ("mode", case.mode, found.modes),
    ):
        if value is not None and value not in known:
            return f"{axis}: {found.name} has no {axis} {value!r}, only {', '.join(known)}"
    return None


def absent(found: Backend, device: str) -> str | None:
    """Why the framework cannot use that device here."""
    present = found.device_names()
    if device in present or any(name.partition(":")[0] == device for name in present):
        return None
    return f"device {device!r}: {found.name} finds only {', '.join(present)} here{why(found)}"


def why(found: Backend) -> str:
    """Why a framework sees no GPU at all, for the end of a sentence; "" if it does or is mute."""
    reason = found.without_gpu() if found.device_names() == ["cpu"] else ""
    return f" ({reason})" if reason else ""


def build_frameworks(case: Case) -> list[str]:
    """Selected frameworks that can build described networks here; NumPy always first.

    Raises:
        FrameworkUnavailable: one that was asked for by name cannot.
    """
    names = ["numpy"]
    for name in case.frameworks.values:
        found = placed(name)
        reason = found.unavailable()
        if reason is None and not found.can_build:
            reason = f"{name} does not build described networks"
        if reason is None:
            names.append(name)
        elif case.frameworks.named:
            raise FrameworkUnavailable(
                f"framework {name!r} was asked for by {case.frameworks.source}, but {reason}"
            )
    return list(dict.fromkeys(names))
