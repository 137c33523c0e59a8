"""Optimizer formulas in NumPy.

Sources: Sutskever et al. 2013 (momentum), Kingma and Ba 2015 (Adam; its section 2 has both places
of epsilon), Loshchilov and Hutter 2019 (decoupled decay), Reddi et al. 2018 (AMSGrad), Tieleman
and Hinton 2012 (RMSprop), Duchi et al. 2011 (Adagrad).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Array = np.ndarray
Arrays = Mapping[str, Array]

USED: Mapping[str, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov", "dampening", "velocity"),
    "adam": (
        *("epsilon", "epsilon_place", "epsilon_root"),
        *("beta1", "beta2", "bias_correction", "amsgrad"),
    ),
    "rmsprop": ("epsilon", "epsilon_place", "epsilon_root", "beta2", "centered"),
    "adagrad": ("epsilon", "epsilon_place", "epsilon_root", "initial"),
}
"""Settings that each kind of rule reads, beside those of all."""

COMMON = (
    *("learning_rate", "weight_decay", "decay"),
    *("clip_norm", "clip_each", "clip_value", "clip_guard"),
)


@dataclass(frozen=True)
class Rule:
    """An optimizer and its settings.

    With g the gradient after clipping and L2 decay, m and v its running means:

    Attributes:
        kind: sgd, adam, rmsprop or adagrad.
        velocity: "gradient": v = momentum v + (1 - dampening) g, step lr v; "step": the learning
            rate is inside, v = momentum v + lr g, step v. Equal while lr is constant.
        epsilon_place: "after root": sqrt(vhat) + epsilon; "before correction": sqrt(v) + epsilon,
            corrected afterwards (the "epsilon hat" of the paper).
        epsilon_root: added under the root, sqrt(vhat + epsilon_root).
        beta2: also the decay rate of rmsprop.
        initial: first value of adagrad's accumulator.
        decay: "l2": g + wd w; "decoupled": w - lr wd w; "unscaled": w - wd w.
        clip_norm, clip_each, clip_value: limits of the norm of all gradients, of each, and of
            each element; 0 for none.
        clip_guard: added to a norm before the limit is divided by it (torch adds 1e-6).
    """

    kind: Literal["sgd", "adam", "rmsprop", "adagrad"]
    learning_rate: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    velocity: str = "gradient"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_place: str = "after root"
    epsilon_root: float = 0.0
    bias_correction: bool = True
    amsgrad: bool = False
    centered: bool = False
    initial: float = 0.0
    weight_decay: float = 0.0
    decay: str = "l2"
    clip_norm: float = 0.0
    clip_each: float = 0.0
    clip_value: float = 0.0
    clip_guard: float = 0.0

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the settings that this kind reads."""
        return (*USED[self.kind], *COMMON)


@dataclass(frozen=True)
class Series:
    """What an optimizer was given and what it did, step by step; the outer key is the step.

    Attributes:
        gradients: by name, float64.
        weights: by name, before each step.
        updates: by name, after minus before.
        rates: learning rate of each step where a schedule set it; None: the rule's own.
    """

    gradients: list[Arrays] = field(default_factory=list)
    weights: list[Arrays] = field(default_factory=list)
    updates: list[Arrays] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)


@dataclass
class State:
    """A rule with its running means."""

    rule: Rule
    count: int = 0
    held: dict[tuple[str, str], Array] = field(default_factory=dict)

    def step(self, gradients: Arrays, weights: Arrays, rate: float | None) -> dict[str, Array]:
        """One step; gives the updates by name, (*shape of the weight)."""
        rule = self.rule
        lr = rule.learning_rate if rate is None else rate
        self.count += 1
        made = {}
        for name, gradient in clipped(rule, gradients).items():
            weight, decayed = weights[name], np.zeros(())
            if rule.decay == "l2":
                gradient = gradient + rule.weight_decay * weight
            else:
                factor = lr if rule.decay == "decoupled" else 1.0
                decayed = factor * rule.weight_decay * weight
            move = getattr(self, f"_{rule.kind}")(name, gradient, lr)
            made[name] = np.asarray(-move - decayed, np.float64)
        return made

    def _mean(self, key: str, name: str, value: Array, rate: float, start: float = 0.0) -> Array:
        before = self.held.get((key, name))
        if before is None:
            before = np.full(value.shape, start)
        self.held[key, name] = made = rate * before + (1 - rate) * value
        return made

    def _sgd(self, name: str, gradient: Array, lr: float) -> Array:
        rule = self.rule
        if not rule.momentum:
            return lr * gradient
        inside, outside = (lr, 1.0) if rule.velocity == "step" else (1.0, lr)
        before = self.held.get(("velocity", name))
        # The first velocity is the whole gradient, dampening comes in from the second step on.
        velocity = (
            inside * gradient
            if before is None
            else rule.momentum * before + (1 - rule.dampening) * inside * gradient
        )
        self.held["velocity", name] = velocity
        if rule.nesterov:
            velocity = inside * gradient + rule.momentum * velocity
        return outside * velocity

    def _adam(self, name: str, gradient: Array, lr: float) -> Array:
        rule = self.rule
        mean = self._mean("mean", name, gradient, rule.beta1)
        square = self._mean("square", name, gradient**2, rule.beta2)
        first, second = 1.0, 1.0
        if rule.bias_correction:
            first, second = 1 - rule.beta1**self.count, 1 - rule.beta2**self.count
        if rule.amsgrad:
            before = self.held.get(("largest", name), np.zeros(()))
            square = self.held["largest", name] = np.maximum(before, square)
        return lr * _ratio(mean / first, square, second, rule)

    def _rmsprop(self, name: str, gradient: Array, lr: float) -> Array:
        rule = self.rule
        square = self._mean("square", name, gradient**2, rule.beta2)
        if rule.centered:
            square = square - self._mean("mean", name, gradient, rule.beta2) ** 2
        return lr * _ratio(gradient, square, 1.0, rule)

    def _adagrad(self, name: str, gradient: Array, lr: float) -> Array:
        start = np.full(gradient.shape, self.rule.initial)
        total = self.held.get(("sum", name), start) + gradient**2
        self.held["sum", name] = total
        return lr * _ratio(gradient, total, 1.0, self.rule)


def _ratio(mean: Array, square: Array, correction: float, rule: Rule) -> Array:
    """Mean over the root of the square, with epsilon where the rule puts it."""
    if rule.epsilon_place == "before correction":
        below = (np.sqrt(square + rule.epsilon_root) + rule.epsilon) / math.sqrt(correction)
    else:
        below = np.sqrt(square / correction + rule.epsilon_root) + rule.epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(mean / below)


def clipped(rule: Rule, gradients: Arrays) -> dict[str, Array]:
    """Gradients within the rule's limits."""
    made = {name: np.asarray(value, np.float64) for name, value in gradients.items()}
    if rule.clip_value:
        made = {n: np.clip(g, -rule.clip_value, rule.clip_value) for n, g in made.items()}
    if rule.clip_each:
        made = {n: g * _factor(rule, rule.clip_each, norm_of([g])) for n, g in made.items()}
    if rule.clip_norm:
        factor = _factor(rule, rule.clip_norm, norm_of(list(made.values())))
        made = {n: g * factor for n, g in made.items()}
    return made


def _factor(rule: Rule, limit: float, norm: float) -> float:
    guarded = norm + rule.clip_guard
    return limit / guarded if guarded > limit else 1.0


def norm_of(values: Sequence[Array]) -> float:
    """Euclidean norm of all values together."""
    return math.sqrt(sum(float(np.sum(value * value)) for value in values))


class RuleStepper:
    """A rule as an optimizer of its own: the NumPy reference of a training comparison."""

    def __init__(self, given: Rule, values: Arrays, *, dtype: str, role: str) -> None:
        self.state, self.dtype = State(given), dtype if dtype != "bfloat16" else "float32"

    def step(
        self, gradients: Arrays, values: Arrays, learning_rate: float | None = None
    ) -> dict[str, Array]:
        """As `Stepper.step`; computed in float64 and rounded."""
        updates = self.state.step(gradients, values, learning_rate)
        return {
            name: np.asarray(value + updates.get(name, 0.0)).astype(self.dtype)
            for name, value in values.items()
        }

    def rule(self) -> Rule:
        """The rule."""
        return self.state.rule
