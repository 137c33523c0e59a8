"""Optimizers of torch, and whatever has a `step` method, over parameters of their own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.optimizers import Stepper, explained
from pytest_fwcompare.backends.torch.twin import DTYPES, to_numpy
from pytest_fwcompare.diagnose.optimizers import Rule
from pytest_fwcompare.errors import UsageError

FORMS = (
    "a function of the list of parameters, e.g. lambda params: torch.optim.Adam(params, lr=1e-3); "
    "it may return (optimizer, scheduler) or (optimizer, function to run before each step, such "
    "as lambda: torch.nn.utils.clip_grad_norm_(params, 1.0))"
)


class OptimizerStepper(Stepper):
    """A torch optimizer.

    `given` is a function of the list of parameters (see `FORMS`), or an optimizer with one
    parameter group, which is made again with the same settings.
    """

    def __init__(self, given: Any, values: Mapping[str, Array], *, dtype: str, role: str) -> None:
        self.role = role
        self.parameters = {
            name: torch.nn.Parameter(torch.from_numpy(np.array(value)).to(DTYPES[dtype]))
            for name, value in values.items()
        }
        made = _make(given, list(self.parameters.values()), role)
        self.before: list[Any] = []
        self.schedulers: list[Any] = []
        parts: list[Any] = list(made) if isinstance(made, tuple) else [made]
        self.optimizer = parts[0]
        if not hasattr(self.optimizer, "step"):
            raise UsageError(
                f"optimizer: the {role}'s gave {type(self.optimizer).__name__}, which has no "
                f"step(); expected {FORMS}"
            )
        for part in parts[1:]:
            (self.schedulers if hasattr(part, "get_last_lr") else self.before).append(part)

    def step(
        self,
        gradients: Mapping[str, Array],
        values: Mapping[str, Array],
        learning_rate: float | None = None,
    ) -> dict[str, Array]:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(np.array(values[name])))
                parameter.grad = None
                if name in gradients:
                    grad = torch.from_numpy(np.array(gradients[name]))
                    parameter.grad = grad.to(parameter.dtype)
        if learning_rate is not None:
            for group in getattr(self.optimizer, "param_groups", ()):
                group["lr"] = learning_rate
        explained(self.role, "optimizer", self._run)
        return {name: to_numpy(parameter) for name, parameter in self.parameters.items()}

    def _run(self) -> None:
        for function in self.before:
            function()
        self.optimizer.step()
        for scheduler in self.schedulers:
            scheduler.step()

    def rule(self) -> Rule | None:
        groups: list[Any] = list(getattr(self.optimizer, "param_groups", ()))
        if len(groups) != 1 or self.before:
            return None
        return rule_of(type(self.optimizer), groups[0])


def _make(given: Any, parameters: list[Any], role: str) -> Any:
    if isinstance(given, torch.optim.Optimizer):
        if len(given.param_groups) != 1:
            raise UsageError(
                f"optimizer: the {role}'s has {len(given.param_groups)} parameter groups; give a "
                f"function that makes it: {FORMS}"
            )
        group = given.param_groups[0]
        known = inspect.signature(type(given)).parameters
        settings = {k: v for k, v in group.items() if k in known and k != "params"}
        again: Any = type(given)
        return again(parameters, **settings)
    if not callable(given):
        raise UsageError(
            f"optimizer: the {role} is a torch model; expected {FORMS}; got {given!r}"
        )
    return given(parameters)


def rule_of(kind: type, group: Mapping[str, Any]) -> Rule | None:
    """What a torch optimizer computes, from its documentation's algorithm boxes."""
    if group.get("maximize"):
        return None
    shared: dict[str, Any] = {
        "learning_rate": float(group["lr"]) if "lr" in group else 0.0,
        "weight_decay": float(group.get("weight_decay") or 0.0),
    }
    if kind is torch.optim.SGD:
        return Rule(
            "sgd",
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            **shared,
        )
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = kind is torch.optim.AdamW or group.get("decoupled_weight_decay", False)
        first, second = (float(beta) for beta in group["betas"])
        return Rule(
            "adam",
            beta1=first,
            beta2=second,
            epsilon=group["eps"],
            amsgrad=group["amsgrad"],
            decay="decoupled" if decoupled else "l2",
            **shared,
        )
    if kind is torch.optim.RMSprop and not group["momentum"]:
        return Rule(
            "rmsprop",
            beta2=group["alpha"],
            epsilon=group["eps"],
            centered=group["centered"],
            **shared,
        )
    if kind is torch.optim.Adagrad and not group["lr_decay"]:
        return Rule(
            "adagrad",
            epsilon=group["eps"],
            initial=group["initial_accumulator_value"],
            **shared,
        )
    return None
