from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.weights.transforms import (
    Assemble,
    Blocks,
    Chain,
    Concatenate,
    Each,
    Flip,
    Gather,
    Identity,
    Parallel,
    Reshape,
    Stack,
    Sum,
    Take,
    Transform,
    Transpose,
    Zeros,
    compose,
    invert,
    shape_of,
)

SINGLE: list[tuple[Transform, tuple[int, ...]]] = [
    (Identity(), (2, 3)),
    (Transpose((2, 0, 1)), (2, 3, 4)),
    (Reshape((6, 4)), (2, 3, 4)),
    (Blocks((2, 0, 1), axis=0), (6, 2)),
    (Flip((0, 2)), (2, 3, 4)),
    (Chain((Blocks((1, 0), 0), Transpose((1, 0)), Reshape((3, 1, 4)))), (4, 3)),
]

LINEAR: list[tuple[Transform, list[tuple[int, ...]]]] = [
    *((transform, [shape]) for transform, shape in SINGLE),
    (Take(1, 3, axis=0), [(6, 2)]),
    (Concatenate(1), [(2, 3), (2, 1)]),
    (Stack(1), [(2, 3), (2, 3)]),
    (Sum(), [(4,), (4,), (4,)]),
    (Each(Transpose((1, 0)), Concatenate(0)), [(2, 3), (2, 4)]),
    (Parallel((Transpose((1, 0)), Identity()), Sum()), [(2, 3), (3, 2)]),
    (Assemble((((0, 0, 3), (1, 0, 3)), (), ((0, 2, 3), (1, 2, 3), (0, 0, 3))), 0), [(6,), (6,)]),
    (Gather(np.array([[3, 0], [-1, 6]])), [(2, 2), (3,)]),
    (Zeros((3,)), []),
]


@pytest.mark.parametrize(("transform", "shapes"), LINEAR, ids=lambda v: repr(v)[:40])
@given(seed=st.integers(0, 2**32 - 1))
def test_adjoint_is_the_transpose(
    transform: Transform, shapes: list[tuple[int, ...]], seed: int
) -> None:
    """<A x, y> = <x, A* y> for random x and y."""
    rng = np.random.default_rng(seed)
    sources = [rng.standard_normal(shape) for shape in shapes]
    target = transform.apply(*sources)
    cotangent = rng.standard_normal(target.shape)
    back = transform.adjoint(cotangent, *shapes)
    assert [part.shape for part in back] == shapes
    inner = sum(float((x * g).sum()) for x, g in zip(sources, back, strict=True))
    assert inner == pytest.approx(float((target * cotangent).sum()), abs=1e-9)


@pytest.mark.parametrize(("transform", "shape"), SINGLE, ids=lambda v: repr(v)[:40])
def test_inverse_brings_everything_back(transform: Transform, shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape)).reshape(shape)
    there = transform.apply(value)
    np.testing.assert_array_equal(invert(transform, shape).apply(there), value)
    assert shape_of(transform, shape) == there.shape


def test_a_part_has_no_inverse() -> None:
    with pytest.raises(TypeError, match=r"Take.* has no inverse"):
        invert(Take(0, 2), (4,))


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_composed_transpositions_become_one(first: list[int], second: list[int]) -> None:
    shape = (2, 3, 4, 5)
    value = np.arange(120).reshape(shape)
    made = compose(shape, Transpose(tuple(first)), Transpose(tuple(second)))
    assert isinstance(made, Transpose | Identity)
    np.testing.assert_array_equal(made.apply(value), value.transpose(first).transpose(second))


def test_steps_that_do_nothing_are_left_out() -> None:
    assert compose((2, 3), Reshape((2, 3)), Transpose((0, 1)), Blocks((0, 1), 0)) == Identity()
    assert compose((2, 1), Flip((1,)), Reshape((2,)), Reshape((1, 2))) == Reshape((1, 2))
    # The first transposition must not swallow a reshape that comes between.
    between = compose((2, 3), Transpose((1, 0)), Reshape((6,)), Reshape((2, 3)))
    np.testing.assert_array_equal(
        between.apply(np.arange(6).reshape(2, 3)), [[0, 3, 1], [4, 2, 5]]
    )


def test_code_of_a_gather_makes_it_again() -> None:
    gather = Gather(np.array([[1, 0], [2, -1]]))
    made = eval(repr(gather), {"Gather": Gather, "numpy": np})
    assert made == gather
    assert hash(made) == hash(gather)
    assert made != Gather(np.array([[0, 1], [2, -1]]))
