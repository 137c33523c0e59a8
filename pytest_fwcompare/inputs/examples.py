"""Examples: one draw for each input, and the plan of what the draws can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.inputs.values import SCALES, Draw, concrete, explored, patterns, values

Array = np.ndarray

FEW = 5
"""Sizes below this may be too small to tell one reduction or order from another."""

DEGENERATE = ("grid", "sparse", "offset", "one-hot", "constant", "zeros")
"""Patterns in which values repeat, so that a tensor is not known by its values."""


@dataclass(frozen=True)
class Example:
    """One set of inputs, and which weights they meet.

    Attributes:
        sizes: free sizes by name.
        draws: by input name, for inputs given as specs.
        arrays: by input name, for inputs given as arrays or drawn by the user's own strategies.
        weights: "randomised" or "given".
        weights_seed: seed of the randomised weights.
    """

    sizes: tuple[tuple[str, int], ...]
    draws: tuple[tuple[str, Draw], ...]
    arrays: tuple[tuple[str, Any], ...] = ()
    weights: str = "randomised"
    weights_seed: int = 0

    def __str__(self) -> str:
        parts = [", ".join(f"{name}={size}" for name, size in self.sizes)]
        parts += [f"{name}: {draw}" for name, draw in self.draws]
        parts += [f"{name}: as given" for name, _ in self.arrays]
        return "; ".join(part for part in parts if part) + f"; {self.weights} weights"

    @property
    def telling(self) -> tuple[float, ...]:
        """Orders examples by how much their tensors tell apart: plainness, size, scale near 1.

        Weights as a model is born with make norms do nothing, and biases of zero.
        """
        size = float(np.prod([size for _, size in self.sizes])) if self.sizes else 0.0
        plain = sum(draw.pattern not in DEGENERATE for _, draw in self.draws)
        far = sum(abs(np.log10(draw.scale)) for _, draw in self.draws)
        return (float(plain), float(self.weights == "randomised"), size, -far)

    @property
    def larger(self) -> Example:
        """The same draws with more than a few of everything whose size is free."""
        grown = ((name, 2 * size + 3 if size < FEW else size) for name, size in self.sizes)
        return replace(self, sizes=tuple(grown))

    @property
    def rng(self) -> np.random.Generator:
        """Source of everything else that is random in the example: cotangents, moves."""
        seeds = [draw.seed for _, draw in self.draws]
        return np.random.default_rng([*seeds, *(size for _, size in self.sizes)])


@dataclass(frozen=True)
class Plan:
    """What the inputs of a comparison can be.

    Attributes:
        specs: inputs described by specs, whose values are drawn.
        layouts: all inputs that have a spec, for their axes and how they are passed.
        given: inputs given as arrays, the same in every example.
        searched: inputs given as Hypothesis strategies.
        order: names of all inputs in order.
        weight_states: of "randomised" and "given", those to judge with.
    """

    specs: Mapping[str, TensorSpec]
    given: Mapping[str, Array]
    searched: Mapping[str, Any]
    order: tuple[str, ...]
    weight_states: tuple[str, ...] = ("randomised", "given")
    seed: int = 0
    layouts: Mapping[str, TensorSpec] = field(default_factory=dict)

    def free_sizes(self) -> list[str]:
        """Names of the free sizes in order of appearance."""
        names: dict[str, None] = {}
        for spec in self.specs.values():
            names.update((size, None) for size in spec.shape if isinstance(size, str))
        return list(names)

    def size_choices(self) -> list[tuple[tuple[str, int], ...]]:
        """A few assignments of the free sizes: telling ones first, odd, even, and all ones.

        Few, because each new shape is traced and compiled anew by some frameworks.
        """
        names = self.free_sizes()
        if not names:
            return [()]
        first, rest = names[0], names[1:]
        starts = ((2, 5), (3, 8), (1, 1), (2, 6))
        choices = []
        for batch, start in starts:
            step = 0 if start == 1 else 1
            sizes = [(first, batch)] + [(n, start + step * i) for i, n in enumerate(rest)]
            choices.append(tuple(sizes))
        return choices if rest else choices[:3]

    def planned(self, count: int) -> Iterator[Example]:
        """Up to `count` examples that together visit every scale, size and weight state."""
        choices = self.size_choices()
        if self.searched:
            return
        if not self.specs:
            for index, state in enumerate(self.weight_states[:count]):
                yield self.example(choices[0], {}, state, index)
            return
        for index in range(count):
            state = self.weight_states[index % len(self.weight_states)]
            # Scales and states advance at different rates, so that all pairs are met.
            scale = SCALES[(index // len(self.weight_states)) % len(SCALES)]
            draws = {}
            for offset, (name, spec) in enumerate(self.specs.items()):
                options = patterns(spec)
                lap = index // (len(self.weight_states) * 2)
                pattern = options[(lap + offset) % len(options)] if index % 4 == 3 else options[0]
                draws[name] = Draw(pattern, scale, seed=self.seed * 1000 + 10 * index + offset)
            sizes = choices[(index + index // len(choices)) % len(choices)]
            yield self.example(sizes, draws, state, index // 4)

    def example(
        self,
        sizes: tuple[tuple[str, int], ...],
        draws: Mapping[str, Draw],
        state: str,
        weights_seed: int,
        arrays: Mapping[str, Any] | None = None,
    ) -> Example:
        """An example of this plan."""
        return Example(
            sizes=sizes,
            draws=tuple(draws.items()),
            arrays=tuple({**self.given, **(arrays or {})}.items()),
            weights=state,
            weights_seed=self.seed + weights_seed if state == "randomised" else 0,
        )

    def arrays(self, example: Example) -> dict[str, Array]:
        """The input arrays of an example, in the reference's axis order."""
        sizes, draws, given = dict(example.sizes), dict(example.draws), dict(example.arrays)
        made = {}
        for name in self.order:
            if name in given:
                made[name] = np.asarray(given[name])
            else:
                spec = self.specs[name]
                made[name] = values(spec, concrete(spec, sizes), draws[name])
        return made

    def is_explored(self, example: Example) -> bool:
        """True if a degenerate pattern is in it that no spec asked for."""
        return any(explored(self.specs[name], draw.pattern) for name, draw in example.draws)

    def simpler(self, example: Example) -> Iterator[Example]:
        """Simpler forms of an example, the most telling simplification first."""
        choices = self.size_choices()
        ones = tuple((name, 1) for name, _ in example.sizes)
        for sizes in (ones, *choices):
            if sum(s for _, s in sizes) < sum(s for _, s in example.sizes):
                yield replace(example, sizes=sizes)
        for position, (name, draw) in enumerate(example.draws):
            spec = self.specs[name]
            options = []
            if draw.special:
                options.append(replace(draw, special=draw.special[:-1]))
            if abs(np.log10(draw.scale)) > 0:
                options.append(replace(draw, scale=1.0))
                options.append(replace(draw, scale=draw.scale**0.5 if draw.scale else 1.0))
            if spec.kind is None and draw.pattern in ("normal", "offset", "sparse"):
                options += [replace(draw, pattern=p) for p in ("one-hot", "grid", "sparse")]
            for option in options:
                if option != draw:
                    draws = list(example.draws)
                    draws[position] = (name, option)
                    yield replace(example, draws=tuple(draws))


def plan(
    inputs: Mapping[str, Any], weight_states: Sequence[str], seed: int, where: str = "inputs"
) -> Plan:
    """Sort the `inputs` of a comparison by what they are.

    Args:
        inputs: by name, in order: `TensorSpec`, Hypothesis strategy or array.
        weight_states: of "randomised" and "given".
        seed: of the comparison.
        where: how messages name the argument.

    Raises:
        UsageError: an input that is none of these, or none at all.
    """
    if not isinstance(inputs, Mapping) or not inputs:
        raise UsageError(
            f"{where}: expected a dict of at least one input, {{name: TensorSpec, strategy or "
            f"array}}, got {inputs!r}"
        )
    specs: dict[str, TensorSpec] = {}
    given: dict[str, Array] = {}
    searched: dict[str, Any] = {}
    layouts = {name: value for name, value in inputs.items() if isinstance(value, TensorSpec)}
    for name, value in inputs.items():
        if name in layouts and layouts[name].values is None:
            specs[name] = layouts[name]
            continue
        content = layouts[name].values if name in layouts else value
        if isinstance(content, tuple) and all(isinstance(size, (int, str)) for size in content):
            raise UsageError(
                f"{where}[{name!r}]: {content!r} is a tuple; a shape is written "
                f"TensorSpec({content!r}), values are an array: numpy.array(...)"
            )
        if is_strategy(content):
            searched[name] = content
        elif isinstance(content, (list, tuple, int, float)) or hasattr(content, "__array__"):
            array = _as_array(content, f"{where}[{name!r}]")
            if array.dtype.kind not in "fiub":
                raise UsageError(
                    f"{where}[{name!r}]: expected numbers or booleans, got dtype {array.dtype}"
                )
            given[name] = array
        else:
            raise UsageError(
                f"{where}[{name!r}]: expected a TensorSpec, a Hypothesis strategy or an array, "
                f"got {type(content).__module__}.{type(content).__qualname__}"
            )
    return Plan(specs, given, searched, tuple(inputs), tuple(weight_states), seed, layouts)


def _as_array(content: Any, where: str) -> Array:
    """The values of an array or of a framework's tensor.

    Raises:
        UsageError: they cannot be had, such as those of a tensor that needs its gradient.
    """
    try:
        return np.asarray(content)
    except Exception as error:  # whatever a framework raises
        raise UsageError(
            f"{where}: expected an array, got {type(content).__module__}."
            f"{type(content).__qualname__}, which NumPy cannot take: {error}"
        ) from None


def is_strategy(value: object) -> bool:
    """True for a Hypothesis strategy, without importing Hypothesis."""
    return any(
        base.__name__ == "SearchStrategy" and base.__module__.startswith("hypothesis.")
        for base in type(value).__mro__
    )
