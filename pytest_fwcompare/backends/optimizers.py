"""What the optimizers of every framework look like to `compare_training`.

Nothing here imports a framework; `backends/<framework>/optimizers.py` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.optimizers import Rule
from pytest_fwcompare.errors import ModelError, UsageError

FRAMEWORKS = {"torch": "torch", "keras": "keras", "tensorflow": "keras", "jax": "jax"}
"""By framework of the side, the folder of `backends` whose optimizers train it."""


class Stepper(ABC):
    """One optimizer over parameters of its own, NumPy in, NumPy out.

    Args:
        given: the user's optimizer, in the form that the framework's class documents.
        values: starting values by parameter name.
        dtype: "float64" for the shadow, else the working dtype.
        role: "reference" or "port", for messages.
    """

    @abstractmethod
    def __init__(
        self, given: Any, values: Mapping[str, Array], *, dtype: str, role: str
    ) -> None: ...

    @abstractmethod
    def step(
        self,
        gradients: Mapping[str, Array],
        values: Mapping[str, Array],
        learning_rate: float | None = None,
    ) -> dict[str, Array]:
        """Start from `values`, take one step, and give the values after it.

        Args:
            gradients: by parameter name.
            values: by parameter name; the optimizer's own state is kept from step to step.
            learning_rate: set for this step and the following; None leaves the optimizer's own.
        """

    def rule(self) -> Rule | None:
        """What the optimizer is set to, where its class says it; None if it cannot be told."""
        return None


def open_stepper(
    framework: str, given: Any, values: Mapping[str, Array], *, dtype: str, role: str
) -> Stepper:
    """The optimizer of one side.

    Raises:
        UsageError: the framework has no optimizers here, or this is none of its forms.
        ModelError: making it raised.
    """
    if isinstance(given, Rule):
        from pytest_fwcompare.diagnose.optimizers import RuleStepper

        return RuleStepper(given, values, dtype=dtype, role=role)  # type: ignore[return-value]
    if framework not in FRAMEWORKS:
        raise UsageError(
            f"optimizer: the {role} is a {framework} model, which has no optimizers of its own; "
            f"give a pytest_fwcompare.diagnose.optimizers.Rule"
        )
    module = import_module(f"pytest_fwcompare.backends.{FRAMEWORKS[framework]}.optimizers")
    made: Stepper = explained(
        role, "build", lambda: module.OptimizerStepper(given, values, dtype=dtype, role=role)
    )
    return made


def explained(role: str, stage: str, run: Callable[[], Any]) -> Any:
    """Run something of the user's; what it raises becomes a `ModelError`."""
    try:
        return run()
    except (UsageError, ModelError):
        raise
    except Exception as error:
        raise ModelError(
            role, stage, f"the optimizer raised {type(error).__name__}: {error}"
        ) from error
