"""A mapping the user wrote down, whole or in part; the rest is found automatically."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import mapping as plain
from pytest_fwcompare.weights.automatic import automatic_mapping
from pytest_fwcompare.weights.conventions import Slot
from pytest_fwcompare.weights.conversions import conversions
from pytest_fwcompare.weights.copying import FIRST
from pytest_fwcompare.weights.recognise import recognise
from pytest_fwcompare.weights.transforms import Identity, Transform, Transpose, shape_of
from pytest_fwcompare.weights.trees import units

GIVEN = "given"


def explicit_mapping(
    spec: Mapping[str, Any],
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    reference_framework: str,
    port_framework: str,
    evidence: Callable[[plain.Mapping], plain.Evidence] | None = None,
) -> plain.Mapping:
    """The user's mapping, completed automatically where it is partial.

    Args:
        spec: by port name: a reference name; or (name or tuple of names, transform), where the
            transform is a `Transform`, axes as a tuple, a function of the arrays that only
            rearranges them, or None for the layers' documented layouts. The port's name with
            None as its value leaves that parameter as it is.
        reference_parameters: of the reference.
        port_parameters: of the port.
        reference_framework: import name.
        port_framework: import name.
        evidence: for the rest, see `automatic_mapping`.

    Raises:
        MappingError: unknown names (with close ones), shapes that do not fit, or a rest that
            cannot be paired.
    """
    book = _Book(
        {p.name: p for p in reference_parameters} | _aliases(reference_parameters),
        {p.name: p for p in port_parameters} | _aliases(port_parameters),
        _slots(reference_parameters, reference_framework),
        _slots(port_parameters, port_framework),
    )
    links, left = {}, {}
    for name, entry in spec.items():
        port = book.find("port", name)
        if entry is None:
            left[port.name] = "left as it is, as given"
        else:
            links[port.name] = book.link(port, entry)
    used = {source for link in links.values() for source in link.sources}
    rest_reference = [p for p in reference_parameters if p.name not in used]
    rest_port = [p for p in port_parameters if p.name not in {*links, *left}]

    def together(rest: plain.Mapping) -> plain.Mapping:
        made = {**{link.port: link for link in rest.links}, **links}
        return replace(
            rest,
            links=tuple(made[p.name] for p in port_parameters if p.name in made),
            unmatched_port={**rest.unmatched_port, **left},
        )

    if not rest_port:
        reason = "nothing given takes it"
        return together(plain.Mapping((), {p.name: reason for p in rest_reference}))
    if not rest_reference:
        return together(
            plain.Mapping((), {}, {p.name: "the reference has nothing left" for p in rest_port})
        )
    return together(
        automatic_mapping(
            rest_reference,
            rest_port,
            reference_framework=reference_framework,
            port_framework=port_framework,
            evidence=None if evidence is None else lambda rest: evidence(together(rest)),
        )
    )


def _aliases(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    return {alias: parameter for parameter in parameters for alias in parameter.aliases}


def _slots(parameters: Sequence[Parameter], framework: str) -> dict[str, Slot]:
    return {slot.name: slot for unit in units(parameters, framework) for slot in unit.slots}


@dataclass
class _Book:
    """Names and conventions of both sides."""

    reference: Mapping[str, Parameter]
    port: Mapping[str, Parameter]
    reference_slots: Mapping[str, Slot]
    port_slots: Mapping[str, Slot]

    def find(self, role: str, name: object) -> Parameter:
        """A parameter by its name.

        Raises:
            MappingError: there is none; with the names most like it.
        """
        known = self.reference if role == "reference" else self.port
        if isinstance(name, str) and name in known:
            return known[name]
        close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "its parameters are "
        if not close:
            names = list(known)
            hint += ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise MappingError(f"weights: the {role} has no parameter {name!r}; {hint}")

    def link(self, port: Parameter, entry: Any) -> plain.Link:
        """One entry of the user's dict as a link."""
        names, given = entry, None
        if isinstance(entry, (tuple, list)):
            if len(entry) != 2:
                raise MappingError(
                    f"weights[{port.name!r}]: expected a reference name or (name or tuple of "
                    f"names, transform), got {entry!r}"
                )
            names, given = entry
        sources = [
            self.find("reference", name)
            for name in (names if isinstance(names, (tuple, list)) else [names])
        ]
        transform = self.transform(port, sources, given)
        shapes = [source.shape for source in sources]
        try:
            made: tuple[int, ...] | str = shape_of(transform, *shapes)
        except (ValueError, IndexError, TypeError) as error:
            made = f"an error: {error}"
        if made != port.shape:
            listed = " and ".join(f"{s.name} {s.shape}" for s in sources)
            raise MappingError(
                f"weights[{port.name!r}]: expected shape {port.shape}, but {transform!r} makes "
                f"{made} of {listed}"
            )
        return plain.Link(port.name, tuple(s.name for s in sources), transform, GIVEN)

    def transform(self, port: Parameter, sources: Sequence[Parameter], given: Any) -> Transform:
        """What the user meant as a transform."""
        if isinstance(given, Transform):
            return given
        if given is None:
            return self.by_convention(port, sources)
        if isinstance(given, (tuple, list)) and all(isinstance(axis, int) for axis in given):
            return Transpose(tuple(given))
        if callable(given):
            return of_function(port, sources, given)
        raise MappingError(
            f"weights[{port.name!r}]: expected a Transform, a function, axes as a tuple, or None "
            f"as the transform, got {given!r}"
        )

    def by_convention(self, port: Parameter, sources: Sequence[Parameter]) -> Transform:
        """The documented layouts, or the only way that fits."""
        if len(sources) != 1:
            names = ", ".join(source.name for source in sources)
            raise MappingError(
                f"weights[{port.name!r}]: several sources ({names}) need a transform, such as "
                f"Concatenate(0) or Sum()"
            )
        source = sources[0]
        options = conversions(self.reference_slots[source.name], self.port_slots[port.name])
        if not options:
            raise MappingError(
                f"weights[{port.name!r}]: {source.name} of shape {source.shape} does not fit "
                f"shape {port.shape} by any documented layout; give (name, transform)"
            )
        if len(options) > 1:
            if source.shape == port.shape and any(o == Identity() for o, _ in options):
                return Identity()
            listed = " or ".join(repr(option) for option, _ in options)
            raise MappingError(
                f"weights[{port.name!r}]: {source.name} of shape {source.shape} fits shape "
                f"{port.shape} in several ways: {listed}; give (name, transform)"
            )
        return options[0][0]


def of_function(
    port: Parameter, sources: Sequence[Parameter], function: Callable[..., Any]
) -> Transform:
    """A user's function of arrays as a transform, found by probing.

    Raises:
        MappingError: it raised, or does more than rearrange.
    """
    arrays, start = [], FIRST
    for source in sources:
        size = int(np.prod(source.shape))
        bits = np.arange(start, start + size, dtype=np.int32)
        arrays.append(bits.view(np.float32).reshape(source.shape))
        start += size
    name = getattr(function, "__name__", repr(function))
    try:
        made = np.asarray(function(*arrays))
    except Exception as error:
        raise MappingError(
            f"weights[{port.name!r}]: {name} raised {type(error).__name__}: {error}"
        ) from error
    if made.shape != port.shape:
        raise MappingError(
            f"weights[{port.name!r}]: expected shape {port.shape}, but {name} gave {made.shape}"
        )
    narrow = np.ascontiguousarray(made, np.float32)
    index = narrow.view(np.int32).reshape(made.shape).astype(np.int64) - FIRST
    if not ((index >= 0) & (index < start - FIRST) & (narrow.reshape(made.shape) == made)).all():
        raise MappingError(
            f"weights[{port.name!r}]: {name} does more than rearrange values, so gradients cannot "
            f"be mapped by it; write it with the transforms of "
            f"pytest_fwcompare.weights.transforms (Sum() adds)"
        )
    return recognise(index, [source.shape for source in sources])
