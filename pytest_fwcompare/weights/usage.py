"""Parameters in the order in which a forward pass uses them.

Names may mean nothing and trees may be sorted by letters, but both sides compute in one order. A
recorded pass tells which parameter goes into which operation: a matrix that multiplies, the vector
that is added to its result, the pair that scales and shifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_fwcompare.backends.base import Parameter, Recorded
from pytest_fwcompare.weights.conventions import base_kind, long_axes
from pytest_fwcompare.weights.recurrent import cell
from pytest_fwcompare.weights.trees import plain_layer
from pytest_fwcompare.weights.words import words


@dataclass(frozen=True)
class Use:
    """One operation on data that takes parameters.

    Attributes:
        operation: its name, in small letters.
        names: parameters that reach it directly, or moved and cast only, in the order it takes
            them.
        data: indices of the records that it takes beside them.
        index: of its own record.
    """

    operation: str
    names: tuple[str, ...]
    data: tuple[int, ...] = ()
    index: int = -1


@dataclass(frozen=True)
class InUse:
    """Both sides as forward passes use them.

    Attributes:
        reference: its parameters in the order of use.
        port: the same of the port.
        siblings: sets of the reference's matrices that multiply one tensor, as query, key and
            value do: their order of use says nothing.
    """

    reference: Sequence[Parameter]
    port: Sequence[Parameter]
    siblings: tuple[tuple[str, ...], ...] = ()


def uses_of(records: Iterable[Recorded]) -> list[Use]:
    """The operations that take parameters, in the order they ran.

    What depends on no input (a transposed weight, a fused one) is handed on to the operation that
    brings it together with data.
    """
    carried: dict[int, tuple[str, ...]] = {}
    found = []
    for record in records:
        if record.is_module:
            continue
        given = [name for index in record.inputs for name in carried.get(index, ())]
        # An operation on a moved weight and a plain bias lists the plain one itself.
        names = tuple(dict.fromkeys([*given, *record.parameters]))
        is_data = record.operation == "input" or any(i not in carried for i in record.inputs)
        if not is_data:
            carried[record.index] = names
        elif names:
            data = tuple(i for i in record.inputs if i not in carried)
            found.append(Use(record.operation.lower(), names, data, record.index))
    return found


def siblings_of(
    parameters: Sequence[Parameter], records: Iterable[Recorded]
) -> tuple[tuple[str, ...], ...]:
    """Matrices of one shape that multiply one tensor."""
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[tuple[object, ...], list[str]] = {}
    for use in uses_of(records):
        matrices = [n for n in use.names if n in known and long_axes(known[n]) > 1]
        for name in matrices:
            key = (use.data, use.operation, known[name].shape)
            if name not in found.setdefault(key, []):
                found[key].append(name)
    return tuple(tuple(names) for names in found.values() if len(names) > 1)


def by_use(parameters: Sequence[Parameter], records: Iterable[Recorded]) -> list[Parameter]:
    """The parameters in order of use, those of no known layer put together as they are used.

    Args:
        parameters: of one side.
        records: of a pass of that side.

    Returns:
        All parameters, unused ones last. What belongs to no layer of a known class gets a made-up
        `layer` and `role`.
    """
    known = {parameter.name: parameter for parameter in parameters}
    flat = flat_names(parameters)
    order: dict[str, Parameter] = {}
    steps: list[Step] = []
    for use in uses_of(records):
        fresh = [n for n in use.names if n in known and n not in order]
        for name in fresh:
            order[name] = known[name]
        loose = [known[name] for name in fresh if name in flat]
        if loose and not (steps and steps[-1].takes(use, loose)):
            steps.append(Step())
        if loose:
            steps[-1].add(use, loose)
        elif fresh:
            steps.append(Step())  # a layer in between: what follows does not belong to it
    for step in steps:
        layer = " + ".join(parameter.name for parameter, _ in step.members)
        for parameter, role in step.members:
            order[parameter.name] = replace(parameter, layer=layer, role=role)
    return [*order.values(), *(p for p in parameters if p.name not in order)]


def flat_names(parameters: Sequence[Parameter]) -> set[str]:
    """Parameters whose owner is no plain layer: all variables of a model in one place."""
    owners: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        owners.setdefault(parameter.layer, []).append(parameter)
    return {
        parameter.name
        for members in owners.values()
        if not plain_layer(members)
        and not cell(base_kind(members[0]))
        and not any(p.role == "in_proj_weight" for p in members)
        for parameter in members
    }


class Step:
    """Loose parameters that are one layer as far as their use tells."""

    def __init__(self) -> None:
        self.members: list[tuple[Parameter, str]] = []

    def takes(self, use: Use, fresh: Sequence[Parameter]) -> bool:
        """Whether what the next operation takes still belongs to this layer."""
        if not self.members or any(long_axes(parameter) > 1 for parameter in fresh):
            return False
        roles = [role for _, role in self.members]
        lengths = {length for parameter, _ in self.members for length in parameter.shape}
        if any(not set(parameter.shape) - {1} <= lengths for parameter in fresh):
            return False
        follow = {"bias"}
        if "mean" in roles or "variance" in roles:
            follow |= {"mean", "variance", "scale"}
        added = roles_of(use, fresh, roles)
        known = [*roles, *added]
        return "bias" not in roles and set(added) <= follow and len(set(known)) == len(known)

    def add(self, use: Use, fresh: Sequence[Parameter]) -> None:
        """Keep them."""
        roles = roles_of(use, fresh, [role for _, role in self.members])
        self.members += zip(fresh, roles, strict=True)


def roles_of(use: Use, fresh: Sequence[Parameter], before: Sequence[str]) -> list[str]:
    """What parameters are to the operation that takes them.

    Args:
        use: the operation.
        fresh: those of its parameters that none before took.
        before: roles of those of the same layer that came before.
    """
    roles: list[str] = []
    for parameter in fresh:
        role = _matrix_role if long_axes(parameter) > 1 else _vector_role
        roles.append(role(use, parameter, [*before, *roles]))
    return roles


def _matrix_role(use: Use, parameter: Parameter, before: Sequence[str]) -> str:
    if not parameter.trainable:
        return parameter.role
    if any(word in use.operation for word in ("gather", "embedding", "take", "index")):
        return "table"
    multiplies = ("mul", "dot", "conv", "linear", "einsum", "mm")
    return "matrix" if any(word in use.operation for word in multiplies) else parameter.role


def _vector_role(use: Use, parameter: Parameter, before: Sequence[str]) -> str:
    """A norm written out subtracts a mean, divides by a deviation, scales and shifts."""
    says = words(parameter.role or parameter.name)
    if not parameter.trainable and ("mean" in says or "variance" in says):
        return parameter.role
    if "norm" in use.operation:
        first, second = ("scale", "bias") if parameter.trainable else ("mean", "variance")
        return second if first in before else first
    if "sub" in use.operation:
        return "mean"
    if any(word in use.operation for word in ("add", "linear", "conv")):
        return "bias" if parameter.trainable else "mean"
    if "div" in use.operation:
        return "variance"
    if "mul" in use.operation:
        left = not parameter.trainable or list(before[-1:]) == ["mean"]
        return "variance" if left else "scale"
    return parameter.role
