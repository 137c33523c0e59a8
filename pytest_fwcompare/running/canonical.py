"""Gradients and buffers of either side by the reference's names, in the reference's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array, Pass
from pytest_fwcompare.inputs.examples import Plan
from pytest_fwcompare.running.arrays import Shelf
from pytest_fwcompare.running.points import Point
from pytest_fwcompare.running.supply import Supply
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Entries, PullBack
from pytest_fwcompare.weights.mapping import Mapping as WeightMapping


def parameter_gradients(
    supply: Supply, role: str, passed: Pass, cotangents: Mapping[str, Array]
) -> tuple[Mapping[str, Array | None], Mapping[str, Array]]:
    """Take a pass back: gradients of its inputs as they are, and of the reference's parameters.

    Those of a large network are put away as they come.
    """
    if supply.large:
        streamed = Streamed(supply, role)
        inputs = passed.backward_each(cotangents, streamed.take)
        return inputs, streamed.finish()
    found, shapes = passed.backward(cotangents), supply.source.shapes
    if role == "reference":
        return found.inputs, {
            f"gradient of {name}": np.zeros(shapes[name]) if value is None else value
            for name, value in found.parameters.items()
        }
    if supply.mapping is None:
        return found.inputs, {}
    pulled = supply.mapping.pull_back(found.parameters, shapes)
    return found.inputs, {
        title: value
        for name, entries in pulled.items()
        for title, value in titled(name, entries, shapes[name])
    }


def titled(name: str, entries: Entries, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """Gradients of one parameter of the reference with what they are called; None is zero.

    Args:
        name: of the parameter.
        entries: from the port, one or several.
        shape: of the parameter.
    """
    for ports, value in entries:
        note = f" (in the port's {', '.join(ports)})" if len(entries) > 1 else ""
        yield f"gradient of {name}{note}", np.zeros(shape) if value is None else value


class Streamed:
    """Gradients of the parameters of one pass, shelved one by one in the reference's layout.

    Args:
        supply: of both sides' weights.
        role: "reference" or "port".
    """

    def __init__(self, supply: Supply, role: str) -> None:
        self._shapes = supply.source.shapes
        self._shelf = Shelf()
        self._titles: dict[str, list[str]] = {name: [] for name in self._shapes}
        self._pulling: PullBack | None = None
        if role == "port":
            trained = {name for name, p in supply.port_parameters.items() if p.trainable}
            mapping = supply.mapping or WeightMapping(())
            self._pulling = PullBack(mapping, trained, self._shapes)

    def take(self, name: str, gradient: Array | None) -> None:
        """Take in one gradient of the side, by its own name; None: nothing depends on it."""
        if self._pulling is None:
            self._put(name, [((name,), gradient)])
            return
        for source, entries in self._pulling.take(name, gradient):
            self._put(source, entries)

    def finish(self) -> Shelf:
        """All gradients, in the order of the reference's parameters."""
        if self._pulling is not None:
            for source, entries in self._pulling.rest():
                self._put(source, entries)
        self._shelf.arrange(title for titles in self._titles.values() for title in titles)
        return self._shelf

    def _put(self, name: str, entries: Entries) -> None:
        for title, value in titled(name, entries, self._shapes[name]):
            self._shelf[title] = value
            self._titles[name].append(title)


def input_gradients(
    plan: Plan, role: str, opened: Opened, found: Mapping[str, Array | None], point: Point
) -> dict[str, Array]:
    """Gradients of a side's inputs, in the reference's axes."""
    made = {}
    for name, value in found.items():
        spec = plan.layouts.get(name)
        axes = spec.to_port if spec is not None and role == "port" else None
        if axes is None:
            axes = opened.input_axes.get(name)
        if value is None:
            value = np.zeros(point.inputs[name].shape)
        elif axes is not None:
            value = value.transpose(np.argsort(axes))
        made[f"gradient of input {name}"] = value
    return made


def buffers(supply: Supply, role: str, found: Mapping[str, Array]) -> dict[str, Array]:
    """Buffers of a side as those of the reference."""
    names = [n for n, p in supply.source.parameters.items() if not p.trainable]
    if role == "reference":
        return {f"buffer {name}": found[name] for name in names if name in found}
    if supply.mapping is None or not found:
        return {}
    pulled = supply.mapping.pull_back(dict(found), supply.source.shapes)
    made = {}
    for name in names:
        for _, value in pulled.get(name, [])[:1]:
            if value is not None:
                made[f"buffer {name}"] = value
    return made
