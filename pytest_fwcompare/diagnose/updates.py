"""Names the setting of an optimizer that explains two series of updates, proved by recomputing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from pytest_fwcompare.diagnose.optimizers import Array, Arrays, Rule, Series, State, norm_of

BUDGET_S = 10.0
"""Seconds for which changes of a rule are tried."""

EXACT = 1e-8
"""Largest relative difference at which a rule counts as giving the updates of a side: settings
are restored from float32 at best, whose roundings are below this in what they change."""

GUESSES: Mapping[str, tuple[Any, ...]] = {
    "epsilon": (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12, 1e-16, 0.0),
    "epsilon_place": ("after root", "before correction"),
    "epsilon_root": (0.0, 1e-8, 1e-7, 1e-6, 1e-12, 1e-16),
    "beta1": (0.9, 0.95, 0.5, 0.8, 0.85, 0.99, 0.0),
    "beta2": (0.999, 0.99, 0.95, 0.9, 0.98, 0.9999),
    "bias_correction": (True, False),
    "amsgrad": (False, True),
    "centered": (False, True),
    "momentum": (0.0, 0.9, 0.99, 0.95, 0.8, 0.5, 0.1),
    "nesterov": (False, True),
    "dampening": (0.0, 0.1, 0.5, 0.9),
    "velocity": ("gradient", "step"),
    "decay": ("decoupled", "unscaled", "l2"),
    "weight_decay": (0.0, 1e-2, 1e-4, 4e-3, 1e-3, 5e-4, 0.1, 0.05),
    "initial": (0.0, 0.1, 1.0),
    "clip_norm": (0.0, 1.0, 0.5, 5.0, 10.0),
    "clip_each": (0.0, 1.0, 0.5, 5.0),
    "clip_value": (0.0, 1.0, 0.5, 5.0),
    "clip_guard": (0.0, 1e-6),
}
"""Values that are in use, tried where a setting cannot be solved for."""

WORDS = {
    "learning_rate": "the learning rate",
    "epsilon": "epsilon",
    "epsilon_place": "the place of epsilon",
    "epsilon_root": "the epsilon under the root",
    "velocity": "what the momentum keeps",
    "decay": "the kind of weight decay",
    "weight_decay": "the weight decay",
    "clip_norm": "clipping by the global norm",
    "clip_each": "clipping by each tensor's norm",
    "clip_value": "clipping by value",
    "clip_guard": "what clipping adds to a norm",
    "initial": "the accumulator's initial value",
    "bias_correction": "the bias correction",
}


@dataclass(frozen=True)
class Oddity:
    """A setting that tells the port's optimizer from the reference's, proved by recomputing.

    Attributes:
        setting: name of the field of `Rule`.
        expected, obtained: the reference's and the port's value.
    """

    setting: str
    expected: Any
    obtained: Any


@dataclass(frozen=True)
class Explanation:
    """What was found out about two series of updates.

    Attributes:
        oddities: settings that together turn the reference's rule into the port's.
        before, after: difference of the reference's rule from the port's updates, and that of the
            changed rule, relative to the largest update of each tensor.
        rule: the reference's rule, as far as it is known.
    """

    oddities: tuple[Oddity, ...]
    before: float
    after: float
    rule: Rule

    def sentences(self) -> tuple[str, ...]:
        """The evidence in words."""
        said = [
            f"{WORDS.get(odd.setting, odd.setting)}: {_value(odd.obtained)} in the port, "
            f"{_value(odd.expected)} in the reference"
            for odd in self.oddities
        ]
        changes = ", ".join(f"{odd.setting}={odd.obtained!r}" for odd in self.oddities)
        said.append(
            f"the {self.rule.kind} rule with {changes} gives the port's updates to "
            f"{max(self.after, 1e-16):.1g} of the largest; with the reference's settings it is "
            f"off by {self.before:.1g}"
        )
        return tuple(said)


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def misfit(rule: Rule, runs: Sequence[Series], enough: float = 1e3) -> float:
    """Largest difference of a rule's updates from those of the runs.

    Relative to each tensor's largest update of that step; infinite where one is not finite.

    Args:
        rule: what is held against the runs.
        runs: gradients, weights and updates.
        enough: a misfit above this is not measured further.
    """
    worst = 0.0
    for run in runs:
        state = State(rule)
        rates = run.rates or [None] * len(run.gradients)
        steps = zip(run.gradients, run.weights, run.updates, rates, strict=True)
        for gradients, weights, updates, rate in steps:
            made = state.step(gradients, weights, rate)
            for name, update in updates.items():
                scale = float(np.abs(update).max(initial=0.0))
                # What an update of a weight loses to the weight's own rounding is no misfit.
                allowed = 4e-16 * float(np.abs(weights[name]).max(initial=0.0))
                apart = np.abs(made[name] - update).max(initial=0.0) - allowed
                if not np.isfinite(apart):
                    return float("inf")
                worst = max(worst, max(apart, 0.0) / max(scale, 1e-300))
            if worst > enough:
                return worst
    return worst


def explain_updates(
    reference: Sequence[Series],
    port: Sequence[Series],
    reference_rule: Rule | None,
    port_rule: Rule | None,
) -> Explanation | None:
    """Name the settings that turn the reference's updates into the port's.

    Args:
        reference: the reference's runs.
        port: the port's runs on the same gradients and weights.
        reference_rule: what the reference's optimizer says of itself; believed only if it gives
            its own updates.
        port_rule: the same of the port's.

    Returns:
        None if no rule explains the reference, or no change of it the port.
    """
    base = _known(reference_rule, reference)
    if base is None:
        base = _recognised(reference, port_rule)
    if base is None:
        return None
    before = misfit(base, port)
    told = _known(port_rule, port)
    if told is not None and told.kind == base.kind:
        return _least(base, told, port, before)
    for candidate in _within(BUDGET_S, _candidates(base, port)):
        after = misfit(candidate, port, EXACT)
        if after <= EXACT:
            return _least(base, candidate, port, before)
    return None


def _known(rule: Rule | None, runs: Sequence[Series]) -> Rule | None:
    return rule if rule is not None and misfit(rule, runs, EXACT) <= EXACT else None


def _recognised(runs: Sequence[Series], hint: Rule | None) -> Rule | None:
    """The rule of an optimizer that tells nothing, from what it did."""
    plain = [Rule("adam"), Rule("sgd"), Rule("rmsprop", beta2=0.9), Rule("adagrad")]
    for start in [*([hint] if hint is not None else []), *plain]:
        for rule in _within(BUDGET_S / 4, _candidates(start, runs)):
            if misfit(rule, runs, EXACT) <= EXACT:
                return rule
    return None


def _least(base: Rule, other: Rule, port: Sequence[Series], before: float) -> Explanation:
    """The fewest of the differing settings that still give the port's updates."""
    odd = [n for n in other.used if getattr(base, n) != getattr(other, n)]
    for count in range(1, len(odd) + 1):
        for names in combinations(odd, count):
            tried = replace(base, **{name: getattr(other, name) for name in names})
            after = misfit(tried, port, EXACT)
            if after <= EXACT:
                found = tuple(Oddity(n, getattr(base, n), getattr(other, n)) for n in names)
                return Explanation(found, before, after, base)
    return Explanation((), before, misfit(other, port), base)


def _within(budget: float, candidates: Iterator[Rule]) -> Iterator[Rule]:
    """Candidates for that many seconds of this thread's processor time."""
    deadline = time.thread_time() + budget
    for candidate in candidates:
        yield candidate
        if time.thread_time() > deadline:
            return


def _candidates(base: Rule, port: Sequence[Series]) -> Iterator[Rule]:
    """Rules near the base: one setting changed, then two; solved values before usual ones."""
    yield base
    values: dict[str, list[Any]] = {name: [] for name in base.used}
    for name, solved in _solved(base, port):
        if name in values and solved not in values[name]:
            values[name].append(solved)
    for name in base.used:
        values[name] += [v for v in GUESSES.get(name, ()) if v not in values[name]]
    singles = [
        (name, value)
        for name in base.used
        for value in values[name]
        if value != getattr(base, name)
    ]
    for name, value in singles:
        yield replace(base, **{name: value})
    for (one, value), (two, other) in combinations(singles, 2):
        if one != two:
            yield replace(base, **{one: value, two: other})


def _solved(base: Rule, port: Sequence[Series]) -> Iterator[tuple[str, float]]:
    """Settings that the first steps determine, if nothing else is odd."""
    for run in (*port[-1:], *port[:-1]):  # where gradients are smallest, epsilons show most
        gradients, updates, weights = run.gradients[0], run.updates[0], run.weights[0]
        rate = run.rates[0] if run.rates else None
        norm = norm_of([np.asarray(gradients[name]) for name in updates])
        lr = base.learning_rate if rate is None else rate
        made = State(base).step(gradients, weights, rate)
        yield from _positive("learning_rate", lr * _slope(updates, made))
        apart = {name: made[name] - updates[name] for name in updates}
        decay = _slope(apart, {n: np.asarray(w, np.float64) for n, w in weights.items()})
        if base.decay != "l2":
            yield from _positive("weight_decay", base.weight_decay + decay / lr)
        if base.kind == "sgd":
            yield from _positive("weight_decay", base.weight_decay + decay / lr)
            yield from _positive("clip_norm", norm * _slope(updates, made))
        for name in list(updates)[:1]:
            yield from _of_adam(base, np.asarray(gradients[name]), updates[name], lr, norm)
    if base.kind == "sgd" and port and len(port[0].updates) > 1:
        yield from _momentum(base, port[0])


def _of_adam(
    base: Rule, gradient: Array, update: Array, lr: float, norm: float
) -> Iterator[tuple[str, float]]:
    """What the first step of Adam tells, where the update is lr g / (|g| + epsilon)."""
    if base.kind != "adam" or not np.any(update):
        return
    with np.errstate(all="ignore"):
        whole = np.abs(gradient) * (lr / np.abs(update) - 1)
        # sqrt(g^2 + root) + epsilon = lr |g| / |update|
        under = (np.abs(gradient) * lr / np.abs(update) - base.epsilon) ** 2 - gradient**2
        share = base.epsilon * np.abs(update) / (np.abs(gradient) * (lr - np.abs(update)))
    correction = math.sqrt(1 - base.beta2)
    for value in (np.nanmedian(whole), np.nanmedian(whole) * correction):
        yield from _positive("epsilon", float(value))
    yield from _positive("epsilon_root", float(np.nanmedian(under)))
    # Clipped gradients are smaller beside the same epsilon.
    yield from _positive("clip_norm", float(np.nanmedian(share)) * norm)


def _momentum(base: Rule, run: Series) -> Iterator[tuple[str, float]]:
    """Momentum from the second step of SGD: what it adds to the gradient's own step."""
    rates = [base.learning_rate if r is None else r for r in (run.rates or [None, None])[:2]]
    rest = {n: -u - rates[1] * run.gradients[1][n] for n, u in run.updates[1].items()}
    first = {n: rates[1] * np.asarray(run.gradients[0][n]) for n in rest}
    yield from _positive("momentum", _slope(rest, first))


def _slope(left: Arrays, right: Arrays) -> float:
    """The factor that turns `right` into `left` best."""
    above = sum(float(np.vdot(left[name], right[name])) for name in left)
    below = sum(float(np.vdot(right[name], right[name])) for name in left)
    return above / below if below else 0.0


def _positive(name: str, value: float) -> Iterator[tuple[str, float]]:
    """The value, to the digits that a person would have written where they suffice."""
    if not math.isfinite(value) or value <= 0:
        return
    for digits in (2, 3, 6, 12):
        yield name, float(f"{value:.{digits - 1}e}")
