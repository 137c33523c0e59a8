"""Does a neural network compute the same function in another framework? See `compare`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "compare": "pytest_fwcompare.comparison",
    "attribute": "pytest_fwcompare.comparing.attribution",
    "NumpyFunction": "pytest_fwcompare.backends.numpy",
    "compare_training": "pytest_fwcompare.training",
    "odd_one_out": "pytest_fwcompare.judge.odd",
    "as_function": "pytest_fwcompare.opening.given",
    "in_worker": "pytest_fwcompare.workers.remote",
    "TensorSpec": "pytest_fwcompare.inputs.spec",
    "GoldenReference": "pytest_fwcompare.golden.replay",
    "Comparison": "pytest_fwcompare.records",
    "FwcompareError": "pytest_fwcompare.errors",
    "UsageError": "pytest_fwcompare.errors",
}
_MODULES = {
    "networks": "pytest_fwcompare.networks",
    "strategies": "pytest_fwcompare.inputs.strategies",
    "transforms": "pytest_fwcompare.weights.transforms",
}

__all__ = [*_PLACES, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from pytest_fwcompare import networks as networks
    from pytest_fwcompare.backends.numpy import NumpyFunction as NumpyFunction
    from pytest_fwcompare.comparing.attribution import attribute as attribute
    from pytest_fwcompare.comparison import compare as compare
    from pytest_fwcompare.errors import FwcompareError as FwcompareError
    from pytest_fwcompare.errors import UsageError as UsageError
    from pytest_fwcompare.golden.replay import GoldenReference as GoldenReference
    from pytest_fwcompare.inputs import strategies as strategies
    from pytest_fwcompare.inputs.spec import TensorSpec as TensorSpec
    from pytest_fwcompare.judge.odd import odd_one_out as odd_one_out
    from pytest_fwcompare.opening.given import as_function as as_function
    from pytest_fwcompare.records import Comparison as Comparison
    from pytest_fwcompare.training import compare_training as compare_training
    from pytest_fwcompare.weights import transforms as transforms
    from pytest_fwcompare.workers.remote import in_worker as in_worker


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
