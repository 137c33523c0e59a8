"""One stream: both sides keep the same cells, both precisions too, and nobody else's."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.dropout import Draws, Masks, current, sharing

SEED = [7, 3]


def tensor(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def asked(draws: Draws, value: np.ndarray, noise=None, kept=0.5) -> np.ndarray:
    return draws.factor(draws.site(), value, noise or value.shape, kept)


def test_factors_are_zero_or_one_over_the_probability():
    made = asked(Masks().draws("reference", "double", SEED), tensor((50, 40)), kept=0.8)
    assert set(np.unique(made)) == {0.0, 1.25}
    assert 0.75 < (made > 0).mean() < 0.85


def test_the_order_of_calls_and_of_axes_does_not_matter():
    masks, x, y = Masks(), tensor((2, 3, 4)), tensor((2, 3, 4), 1)
    ours = masks.draws("reference", "double", SEED)
    for_x, for_y = asked(ours, x), asked(ours, y)
    assert not np.array_equal(for_x, for_y)
    theirs = masks.draws("port", "double", SEED)
    np.testing.assert_array_equal(asked(theirs, y.transpose(0, 2, 1)), for_y.transpose(0, 2, 1))
    np.testing.assert_array_equal(asked(theirs, x), for_x)


def test_working_passes_repeat_what_their_shadows_kept():
    masks, x = Masks(), tensor((4, 5))
    shadow = asked(masks.draws("reference", "double", SEED), x)
    np.testing.assert_array_equal(
        asked(masks.draws("reference", "working", SEED), x.astype(np.float32)), shadow
    )
    asked(masks.draws("port", "double", SEED), x.T)
    # A working pass so far off that its values match nothing.
    obtained = asked(masks.draws("port", "working", SEED), x.T + 100)
    np.testing.assert_array_equal(obtained, shadow.T)


def test_another_rate_keeps_nested_cells():
    masks, x = Masks(), tensor((30, 30))
    ours = asked(masks.draws("reference", "double", SEED), x, kept=0.5) > 0
    theirs = asked(masks.draws("port", "double", SEED), x, kept=0.7) > 0
    assert theirs[ours].all()
    assert theirs.sum() > ours.sum()


def test_channels_against_cells_share_nothing():
    masks, x = Masks(), tensor((4, 16, 8, 8))
    ours = asked(masks.draws("reference", "double", SEED), x, (4, 16, 1, 1))
    theirs = asked(masks.draws("port", "double", SEED), x)
    assert 0.3 < (np.broadcast_to(ours, x.shape) == theirs).mean() < 0.7
    assert masks.table(SEED).port[0, 0].source is None


def test_an_unknown_tensor_gets_numbers_of_its_own():
    masks = Masks()
    ours = asked(masks.draws("reference", "double", SEED), tensor((40, 40)))
    theirs = asked(masks.draws("port", "double", SEED), tensor((40, 40), 1))
    assert 0.4 < (ours == theirs).mean() < 0.6


def test_points_differ_and_repeat_themselves():
    masks, x = Masks(), tensor((40, 40))
    first = asked(masks.draws("reference", "double", SEED), x)
    other = asked(masks.draws("reference", "double", [7, 4]), x)
    again = asked(masks.draws("reference", "double", SEED), x)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, again)


def test_a_call_that_runs_again_is_the_same_and_a_loop_is_not():
    draws, x = Masks().draws("reference", "double", SEED), tensor((40, 40))
    site = draws.site()
    first = draws.factor(site, x, x.shape, 0.5)
    looped = draws.factor(site, x + 1, x.shape, 0.5)
    np.testing.assert_array_equal(draws.factor(site, x, x.shape, 0.5), first)
    assert not np.array_equal(first, looped)


def test_equal_tensors_are_dropped_alike():
    masks, x = Masks(), tensor((5, 5))
    ours = masks.draws("reference", "double", SEED)
    first, second = asked(ours, x), asked(ours, x.copy())
    np.testing.assert_array_equal(first, second)


def test_values_are_kept_though_the_framework_reuses_its_memory():
    masks, x = Masks(), tensor((5, 5))
    held = x.copy()
    ours = asked(masks.draws("reference", "double", SEED), held)
    held[:] = 0
    np.testing.assert_array_equal(asked(masks.draws("port", "double", SEED), x), ours)


def test_nobody_answers_outside_of_a_pass():
    assert current() is None
    draws = Masks().draws("reference", "double", SEED)
    try:
        with sharing(draws):
            assert current() is draws
            raise KeyError
    except KeyError:
        pass
    assert current() is None
