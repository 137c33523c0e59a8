"""The NumPy backend: described networks in float64 from their formulas, and plain functions.

It is the reference that every framework is judged against, so it is independent of all of them;
gradients come from autograd (https://github.com/HIPS/autograd). This module does not import it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_fwcompare.backends.base import Backend, Built, Placement, Side
from pytest_fwcompare.backends.numpy.models import NumpyFunction, NumpyNetwork, is_function
from pytest_fwcompare.errors import FrameworkUnavailable
from pytest_fwcompare.formats import DTYPES
from pytest_fwcompare.weights.transforms import Identity

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network

__all__ = ["NumpyBackend", "NumpyFunction", "NumpyNetwork"]


def working(dtype: str) -> str:
    """What NumPy computes in where the others compute in `dtype`.

    It has no bfloat16 and slow float16, and as the reference it need not be as coarse as what it
    judges: it works in float32 wherever a dtype is narrower.
    """
    return "float64" if dtype == "float64" else "float32"


class NumpyBackend(Backend):
    """Knows NumPy. See `Backend`."""

    name = "numpy"
    distribution = "numpy autograd"
    imports = ("numpy", "autograd")
    devices = ("cpu",)
    modes = ("eager",)
    dtypes = DTYPES

    def version(self) -> str:
        return version("numpy")

    def environment(self) -> dict[str, Any]:
        return {"version": self.version(), "autograd": version("autograd")}

    def owns(self, model: object) -> bool:
        return isinstance(model, (NumpyNetwork, NumpyFunction)) or is_function(model)

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        if device != "cpu":
            raise FrameworkUnavailable(f"device {device!r} was asked for, but numpy has only cpu")
        if isinstance(model, NumpyNetwork):
            from pytest_fwcompare.backends.numpy.side import NetworkSide

            return NetworkSide(model, dtype=working(dtype), own=own)
        from pytest_fwcompare.backends.numpy.function import FunctionSide

        wrapped = model if isinstance(model, NumpyFunction) else NumpyFunction(model)
        return FunctionSide(wrapped, dtype=working(dtype))

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        if device != "cpu":
            raise FrameworkUnavailable(f"device {device!r} was asked for, but numpy has only cpu")
        model = NumpyNetwork(network, dtype=working(dtype))
        return Built(model, tuple(Placement(name, (name,), Identity()) for name in model.weights))
