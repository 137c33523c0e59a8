"""A side's parameters as a list of units: layers, or parts of layers that are mapped as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights import recurrent
from pytest_fwcompare.weights.conventions import (
    KERNEL,
    MEAN,
    SCALE,
    SHIFT,
    VARIANCE,
    Slot,
    base_kind,
    describe,
    is_certain,
    role_word,
    slot,
)
from pytest_fwcompare.weights.transforms import Identity
from pytest_fwcompare.weights.words import ranked_numbers, without_counters


@dataclass(frozen=True)
class Unit:
    """Parameters that belong together.

    Attributes:
        path: name of the layer, or the common part of the names.
        cell: "lstm", "gru", "rnn" for a recurrent layer with known gates, else "".
        slots: its parameters with their conventions.
        index: place in the side's order.
        numbers: depth numbers of the path, as ranks.
        counted: class and number of the layer where Keras named it: the order they were made in.
        signature: everything but names: units of one signature can be exchanged.
    """

    path: str
    cell: str
    slots: tuple[Slot, ...]
    index: int
    numbers: tuple[int, ...] = ()
    counted: tuple[str, int] | None = None

    @cached_property
    def signature(self) -> tuple[object, ...]:
        several = len(self.slots) > 1
        return (
            self.cell,
            tuple(
                (s.role, s.form, s.native, s.shape, s.steps, s.certain, s.parameter.trainable,
                 s.atoms, s.parameter.role if several and not s.certain else "")
                for s in self.slots
            ),
        )  # fmt: skip

    @cached_property
    def kernel_size(self) -> int:
        """Number of values in kernels and embeddings."""
        return sum(s.size for s in self.slots if s.role in ("kernel", "embedding"))


def units(parameters: Sequence[Parameter], framework: str) -> list[Unit]:
    """The units of a side, in its order.

    Args:
        parameters: of the side, in definition order.
        framework: its import name.
    """
    groups: list[tuple[str, str, list[Slot]]] = []
    for path, members in owners(in_natural_order(parameters, framework), framework):
        groups += parts_of(path, members, framework)
    names: list[tuple[str, tuple[str, int] | None]] = [(path, None) for path, _, _ in groups]
    if framework in ("keras", "tensorflow"):
        names = [without_counters(path, base_kind(some[0].parameter)) for path, _, some in groups]
    ranks = ranked_numbers([name for name, _ in names])
    return [
        Unit(path, cell, tuple(slots), index, ranks[index], names[index][1])
        for index, (path, cell, slots) in enumerate(groups)
    ]


def in_natural_order(parameters: Sequence[Parameter], framework: str) -> list[Parameter]:
    """JAX trees come sorted by letters, so that layer 10 precedes layer 2: sort by numbers."""
    if framework != "jax" or not alphabetical(parameters):
        return list(parameters)

    def key(parameter: Parameter) -> list[tuple[int, str, int]]:
        parts = re.split(r"[./]", parameter.name)
        found = []
        for part in parts:
            stem = re.sub(r"\d+$", "", part)
            digits = part[len(stem) :]
            found.append((0, stem, int(digits) if digits else -1))
        return found

    return sorted(parameters, key=key)


def alphabetical(parameters: Sequence[Parameter]) -> bool:
    """Whether the names come sorted by letters, so that their order says nothing."""
    names = [re.split(r"[./]", p.name) for p in parameters]
    return len(names) > 1 and names == sorted(names)


def owners(parameters: Sequence[Parameter], framework: str) -> list[tuple[str, list[Parameter]]]:
    """Parameters by the layer that owns them, in the order of first appearance.

    Flax's recurrent cells, whose gates are layers of their own, count as one layer. Parameters
    that no layer owns are grouped by the beginnings of their names.
    """
    groups: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        # torch keeps what a weight is computed from (weight norm) in submodules of the layer.
        layer = re.sub(r"[.]parametrizations[.][^.]+$", "", parameter.layer)
        groups.setdefault(layer, []).append(parameter)
    cells = flax_cells(groups) if framework == "jax" else {}
    made: dict[str, list[Parameter]] = {}
    for path, members in groups.items():
        parent = re.split(r"[./](?=[^./]*$)", path)[0] if re.search(r"[./]", path) else ""
        if parent in cells and path in cells[parent]:
            made.setdefault(parent or "cell", []).extend(members)
        else:
            made.setdefault(path, []).extend(members)
    return list(made.items())


def flax_cells(groups: dict[str, list[Parameter]]) -> dict[str, set[str]]:
    """Parents whose child layers together are one recurrent cell, with those children."""
    children: dict[str, dict[str, list[Parameter]]] = {}
    for path, members in groups.items():
        parent, _, last = path.rpartition(".")
        children.setdefault(parent, {})[last] = members
    return {
        parent: {f"{parent}.{name}" if parent else name for name in found}
        for parent, found in children.items()
        if recurrent.flax_cell(found) is not None
    }


def parts_of(
    path: str, members: list[Parameter], framework: str
) -> list[tuple[str, str, list[Slot]]]:
    """One layer's parameters as (path, cell, slots) of one unit or several."""
    if len({parameter.layer for parameter in members}) > 1:
        named: dict[str, list[Parameter]] = {}
        for parameter in members:
            named.setdefault(parameter.layer.rpartition(".")[2], []).append(parameter)
        if (found := recurrent.flax_cell(named)) is not None:
            return [(path, *found)]
    if recurrent.cell(base_kind(members[0])):
        directions: dict[str, list[Parameter]] = {}
        for parameter in members:
            found_name = recurrent.TORCH_NAME.fullmatch(parameter.role)
            which = f"{found_name[3] or ''}{found_name[4] or ''}" if found_name else ""
            directions.setdefault(which, []).append(parameter)
        described = {w: recurrent.describe_cell(some) for w, some in directions.items()}
        if all(described.values()):
            return [
                (f"{path}.l{which}" if which else path, *one)
                for which, one in described.items()
                if one is not None
            ]
    if any(parameter.role in ("in_proj_weight", "q_proj_weight") for parameter in members):
        return [(path, "", [attention_slot(parameter) for parameter in members])]
    separable = [p for p in members if p.role in ("depthwise_kernel", "pointwise_kernel")]
    if len(separable) == 2:
        deep = [p for p in members if p.role == "depthwise_kernel"]
        wide = [p for p in members if p.role != "depthwise_kernel"]
        return [
            (f"{path}.depthwise", "", [describe(p, deep, framework) for p in deep]),
            (f"{path}.pointwise", "", [describe(p, wide, framework) for p in wide]),
        ]
    return [
        (name, "", [describe(parameter, some, framework) for parameter in some])
        for name, some in segments(path, members)
    ]


def attention_slot(parameter: Parameter) -> Slot:
    """Torch's MultiheadAttention: query, key and value one after the other along axis 0."""
    if parameter.role == "in_proj_weight":
        atoms = tuple(frozenset([f"{part}.weight"]) for part in ("query", "key", "value"))
        return slot(parameter, "kernel", "linear", certain=True, atoms=atoms)
    if parameter.role == "in_proj_bias":
        atoms = tuple(frozenset([f"{part}.bias"]) for part in ("query", "key", "value"))
        return slot(parameter, "bias", "", certain=True, atoms=atoms)
    if parameter.role in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return slot(parameter, "kernel", "linear", certain=True)
    return slot(parameter, "other", "", Identity(), certain=True)


def segments(path: str, members: list[Parameter]) -> list[tuple[str, list[Parameter]]]:
    """Cut the parameters of an owner of unknown class where a new layer seems to begin.

    A `tf.Module` keeps all its variables at one place: names with a common beginning belong
    together (down1_filters, down1_bias); so does a bias with the kernel before it, if it fits.
    """
    if len(members) == 1:
        return [(members[0].name, members)]
    if plain_layer(members) or (path and alike_vectors(members)):
        return [(path or members[0].name, members)]
    made: list[tuple[str, list[Parameter]]] = []
    for parameter in members:
        stem = stem_of(parameter)
        if made and belongs(parameter, stem, made[-1]):
            made[-1][1].append(parameter)
        else:
            same = next((group for name, group in made if stem and name == stem), None)
            if same is not None:
                same.append(parameter)
            else:
                made.append((stem or parameter.name, [parameter]))
    return made


def plain_layer(members: list[Parameter]) -> bool:
    """One kernel at most, and every role once: an ordinary layer."""
    kernels = [p for p in members if sum(length != 1 for length in p.shape) > 1]
    roles = [p.role for p in members]
    known = SCALE | SHIFT | MEAN | VARIANCE | KERNEL | {"original0", "original1"}
    return bool(members[0].layer or is_certain(members[0])) and (
        len(kernels) <= 1
        and len(set(roles)) == len(roles)
        and all(any(word in known for word in re.split(r"[_.]", role)) for role in roles)
    )


def alike_vectors(members: list[Parameter]) -> bool:
    """A few vectors of one length, some without a telling name: a norm, however it calls them."""
    shapes = {tuple(length for length in p.shape if length != 1) for p in members}
    return (
        len(members) <= 4
        and len(shapes) == 1
        and len(shapes.pop()) == 1
        and not all(role_word(p) for p in members)
    )


def stem_of(parameter: Parameter) -> str:
    """The name without its last role word: "down1" of "down1_filters"; "" if nothing is left."""
    known = SCALE | SHIFT | MEAN | VARIANCE | KERNEL | {"moving", "running"}
    parts = re.split(r"([_./:])", parameter.name)
    if parts[-2:] == [":", "0"]:
        parts = parts[:-2]
    numbered = re.fullmatch(r"([A-Za-z]+)_?(\d+)", parts[-1])
    if numbered and numbered[1] in known:
        # w1 and b1 belong together.
        return "".join([*parts[:-1], numbered[2]])
    while parts and (parts[-1] in known or parts[-1] in "_./:"):
        parts.pop()
    return "".join(parts)


def belongs(parameter: Parameter, stem: str, group: tuple[str, list[Parameter]]) -> bool:
    """Whether a parameter goes on the group before it."""
    name, members = group
    if stem and stem == name:
        return True
    first = members[0]
    # A plain "bias" goes on the kernel it follows, if its size fits.
    return (
        role_word(parameter) in SHIFT
        and not stem
        and len(members) == 1
        and len(first.shape) >= 2
        and len(parameter.shape) == 1
        and parameter.shape[0] in first.shape
    )
