"""A mapping read off the user's own copy function, by probing it.

The reference is filled with distinct numbers that float32 keeps exactly, the function copies, and
every number found in the port tells where it came from. What is a sum of two parameters (the two
biases of a recurrent layer) is found by giving each parameter one constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import mapping as plain
from pytest_fwcompare.weights.recognise import recognise
from pytest_fwcompare.weights.transforms import Identity, Parallel, Sum, Transform, Zeros

Array = np.ndarray

FIRST = int(np.float32(1.0).view(np.int32))
"""Bits of the first number: consecutive float32 from 1.0 on are distinct and exact."""

COPIED = "read off the copy function"


@dataclass
class Probe:
    """Runs the copy function on chosen values of the reference.

    Attributes:
        write_reference: sets all parameters of the reference.
        copy: the user's copy function, models bound.
        read_port: the port's values by name.
    """

    reference: Sequence[Parameter]
    write_reference: Callable[[Mapping[str, Array]], None]
    copy: Callable[[], object]
    read_port: Callable[[], Mapping[str, Array]]

    def run(self, values: Mapping[str, Array]) -> Mapping[str, Array]:
        """The port's values after copying; parameters not named are zero."""
        filled = {
            p.name: np.asarray(values.get(p.name, np.zeros(p.shape)), np.float32)
            for p in self.reference
        }
        self.write_reference(filled)
        try:
            self.copy()
        except Exception as error:
            raise MappingError(
                f"the copy function given as weights= raised {type(error).__name__}: {error}"
            ) from error
        return {name: np.array(value) for name, value in self.read_port().items()}


def mapping_by_copy(
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    write_reference: Callable[[Mapping[str, Array]], None],
    copy: Callable[[], object],
    read_port: Callable[[], Mapping[str, Array]],
) -> plain.Mapping:
    """What a copy function does, as a mapping.

    Args:
        reference_parameters: of the reference.
        port_parameters: of the port.
        write_reference: sets the reference model's parameters by name, float32 arrays.
        copy: copies from the reference model to the port model, in place.
        read_port: the port model's values by name.

    Raises:
        MappingError: the copy function raised.
    """
    probe = Probe(reference_parameters, write_reference, copy, read_port)
    starts, total = {}, 0
    for parameter in reference_parameters:
        starts[parameter.name] = total
        total += int(np.prod(parameter.shape))
    numbers = (FIRST + np.arange(total, dtype=np.int32)).view(np.float32)
    values = {
        p.name: numbers[starts[p.name] : starts[p.name] + int(np.prod(p.shape))].reshape(p.shape)
        for p in reference_parameters
    }
    before = {name: np.array(value) for name, value in read_port().items()}
    copied, zero = probe.run(values), probe.run({})
    finder = _Finder(reference_parameters, starts, total)
    links: list[plain.Link] = []
    unmatched: dict[str, str] = {}
    sums: list[Parameter] = []
    for parameter in port_parameters:
        value = copied[parameter.name]
        index = finder.places(value)
        if (index >= 0).all() and value.size:
            links.append(finder.link(parameter.name, index))
        elif np.array_equal(value, zero[parameter.name]):
            if not value.any() and np.any(before[parameter.name]):
                zeros = Zeros(parameter.shape)
                links.append(plain.Link(parameter.name, (), zeros, f"{COPIED}: always zero"))
            else:
                unmatched[parameter.name] = "the copy function does not set it"
        else:
            sums.append(parameter)
    if sums:
        found, rest = _sums(probe, reference_parameters, sums, finder)
        links += found
        unmatched |= rest
    order = {p.name: place for place, p in enumerate(port_parameters)}
    used = {name for link in links for name in link.sources}
    return plain.Mapping(
        tuple(sorted(links, key=lambda link: order[link.port])),
        {
            p.name: "the copy function does not use it"
            for p in reference_parameters
            if p.name not in used
        },
        unmatched,
    )


@dataclass
class _Finder:
    """Where numbers of the probe came from."""

    reference: Sequence[Parameter]
    starts: Mapping[str, int]
    total: int

    def places(self, value: Array) -> Array:
        """Flat place of each number among all parameters; -1 for one that is no copy."""
        narrow = np.ascontiguousarray(value, np.float32)
        bits = narrow.view(np.int32).reshape(value.shape).astype(np.int64) - FIRST
        known = (bits >= 0) & (bits < self.total) & (narrow.reshape(value.shape) == value)
        return np.where(known, bits, -1)

    def link(self, port: str, index: Array) -> plain.Link:
        """The link of a port parameter whose every number is a copy."""
        begins = np.array([self.starts[p.name] for p in self.reference])
        owner = np.searchsorted(begins, index, side="right") - 1
        # Empty parameters begin where the next one does; the last that begins there owns it.
        order = [int(i) for i in dict.fromkeys(owner.ravel().tolist())]
        moved, offset = np.empty_like(index), 0
        for place in order:
            parameter = self.reference[place]
            mine = owner == place
            moved[mine] = index[mine] - self.starts[parameter.name] + offset
            offset += int(np.prod(parameter.shape))
        shapes = [self.reference[place].shape for place in order]
        names = tuple(self.reference[place].name for place in order)
        return plain.Link(port, names, recognise(moved, shapes), COPIED)


def _sums(
    probe: Probe,
    reference: Sequence[Parameter],
    ports: Sequence[Parameter],
    finder: _Finder,
) -> tuple[list[plain.Link], dict[str, str]]:
    """Links of port parameters that are sums of two whole parameters, and what is neither."""
    constants = np.random.default_rng(0).permutation(1 << 20)[: len(reference)] + 1.0
    by_name = {p.name: p for p in reference}
    level = probe.run(
        {p.name: np.full(p.shape, c) for p, c in zip(reference, constants, strict=True)}
    )
    pairs = {}
    pair_sums = {
        float(constants[i] + constants[j]): (reference[i].name, reference[j].name)
        for i in range(len(reference))
        for j in range(i + 1, len(reference))
        if int(np.prod(reference[i].shape)) == int(np.prod(reference[j].shape))
    }
    unmatched = {}
    for port in ports:
        values = np.unique(level[port.name])
        if len(values) == 1 and float(values[0]) in pair_sums:
            pairs[port.name] = pair_sums[float(values[0])]
        else:
            unmatched[port.name] = (
                "the copy function sets it to values that are neither copies nor sums of two "
                "parameters"
            )
    parts: dict[str, dict[str, Transform]] = {name: {} for name in pairs}
    for source in dict.fromkeys(name for pair in pairs.values() for name in pair):
        shape = by_name[source].shape
        size = int(np.prod(shape))
        bits = (FIRST + finder.starts[source] + np.arange(size, dtype=np.int32)).astype(np.int32)
        copied = probe.run({source: bits.view(np.float32).reshape(shape)})
        for name, pair in pairs.items():
            index = finder.places(copied[name]) - finder.starts[source]
            if source in pair and (index >= 0).all() and (index < size).all():
                parts[name][source] = recognise(index, [shape])
    links = []
    for name, pair in pairs.items():
        if set(parts[name]) != set(pair):
            unmatched[name] = "the copy function mixes its sources in a way that is not understood"
            continue
        steps = tuple(parts[name][source] for source in pair)
        alike = all(step == steps[0] for step in steps)
        transform: Transform = Sum() if alike else Parallel(steps, Sum())
        if alike and not isinstance(steps[0], Identity):
            transform = Sum().then(steps[0])
        links.append(plain.Link(name, pair, transform, f"{COPIED}: a sum of two"))
    return links, unmatched
