"""Arithmetic on sizes that may be free: numbers stay numbers, names become expressions.

An expression is Python text over the names of free sizes, such as "(time - 3)//2 + 1", written in
one way only, so that equal derivations give equal texts. `resolve` puts numbers in.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from math import prod

from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks.base import Shape, Size

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def plus(size: Size, amount: int) -> Size:
    """The sum of a size and a number."""
    if isinstance(size, int):
        return size + amount
    if match := re.fullmatch(r"(.+) ([+-]) (\d+)", size):
        size = match[1]
        amount += int(match[2] + match[3])
    return f"{size} {'+' if amount > 0 else '-'} {abs(amount)}" if amount else size


def times(size: Size, factor: int) -> Size:
    """The product of a size and a number."""
    if isinstance(size, int):
        return size * factor
    return size if factor == 1 else f"{factor}*{_wrapped(size)}"


def floor_divide(size: Size, divisor: int) -> Size:
    """Floor of size / divisor."""
    if isinstance(size, int):
        return size // divisor
    return size if divisor == 1 else f"{_wrapped(size)}//{divisor}"


def total(*sizes: Size) -> Size:
    """Sum of the sizes."""
    free = " + ".join(size for size in sizes if isinstance(size, str))
    known = sum(size for size in sizes if isinstance(size, int))
    return plus(free, known) if free else known


def product(*sizes: Size) -> Size:
    """Product of the sizes."""
    known = prod(size for size in sizes if isinstance(size, int))
    free = [_wrapped(size) for size in sizes if isinstance(size, str)]
    if not free:
        return known
    return "*".join(free if known == 1 else [str(known), *free])


def resolve(shape: Shape, known: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with numbers in place of names.

    Args:
        shape: sizes and expressions.
        known: number for each free size.

    Raises:
        NetworkError: a name without a number.
    """
    return tuple(
        size if isinstance(size, int) else _value(ast.parse(size, mode="eval").body, known)
        for size in shape
    )


def _value(node: ast.expr, known: Mapping[str, int]) -> int:
    if isinstance(node, ast.BinOp):
        return int(_OPERATIONS[type(node.op)](_value(node.left, known), _value(node.right, known)))
    if isinstance(node, ast.Name):
        if node.id not in known:
            raise NetworkError(f"no number is given for the free size {node.id!r}")
        return known[node.id]
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int)
    return node.value


def _wrapped(size: str) -> str:
    return size if size.isidentifier() else f"({size})"
