"""Hints name options that differ, in the words of each framework, and nothing that agrees."""

from __future__ import annotations

import numpy as np
import pytest
from tape import Tape

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.hints import MOST, facts, hints
from pytest_fwcompare.diagnose.locate import Sides

RNG = np.random.default_rng(5)
X = RNG.normal(size=(3, 4))


def parameter(name, kind, layer=None, **options):
    layer = name.rpartition(".")[0] if layer is None else layer
    return Parameter(name, (4,), "float32", True, layer, kind, "weight", options)


def passes(*paths, wrong=()):
    """x -> one function a path; the wrong ones give something else."""
    tape = Tape()
    place = tape.input(X)
    for path in paths:
        value = np.tanh(tape.value(place)) + (0.25 * X if path in wrong else 0.0)
        place = tape.run("tanh", value, place, path=path)
    return tape.records


def asked(ours, theirs, frameworks=("torch", "keras"), wrong=("norm",), paths=("norm",)):
    """Hints about pairs of parameters that were mapped in order."""
    sides = Sides(passes(*paths), passes(*paths, wrong=wrong))
    return hints(
        sides,
        Diagnosis(),
        reference_layers=ours,
        port_layers=theirs,
        mapped={b.name: (a.name,) for a, b in zip(ours, theirs, strict=True)},
        frameworks=frameworks,
    )


def test_an_option_of_another_name_is_compared() -> None:
    ours = [parameter("norm.weight", "LayerNorm", eps=1e-5)]
    theirs = [parameter("n/gamma", "LayerNormalization", "n", epsilon=1e-3)]
    assert asked(ours, theirs) == (
        "epsilon is 1e-05 (eps) in norm of the reference, 0.001 in n of the port",
    )


def test_equal_options_and_those_of_one_side_give_no_hint() -> None:
    ours = [parameter("norm.weight", "LayerNorm", eps=1e-5, groups=2)]
    theirs = [parameter("n/gamma", "LayerNormalization", "n", epsilon=1e-5, center=True)]
    assert asked(ours, theirs) == ()


def test_a_layer_whose_value_the_port_has_is_no_suspect() -> None:
    ours = [parameter("norm.weight", "BatchNorm1d", eps=1e-5, momentum=0.1)]
    theirs = [parameter("n/gamma", "BatchNormalization", "n", epsilon=1e-3, momentum=0.99)]
    (said,) = asked(ours, theirs, wrong=())
    assert said.startswith("momentum is 0.1 (weight of the new value)"), said


@pytest.mark.parametrize(
    ("frameworks", "theirs", "differs"),
    [
        (("torch", "keras"), 0.9, False),
        (("torch", "keras"), 0.1, True),
        (("torch", "torch"), 0.1, False),
        (("torch", "jax"), 0.99, True),
        (("keras", "jax"), 0.1, False),
    ],
)
def test_momentum_means_the_new_value_in_torch_and_the_old_one_elsewhere(
    frameworks, theirs, differs
):
    one = [parameter("norm.weight", "BatchNorm", momentum=0.1)]
    other = [parameter("n/gamma", "BatchNorm", "n", momentum=theirs)]
    assert bool(asked(one, other, frameworks)) == differs


def test_momentum_of_anything_else_is_left_alone() -> None:
    one = [parameter("norm.weight", "Codebook", momentum=0.1)]
    other = [parameter("n/gamma", "Codebook", "n", momentum=0.3)]
    assert asked(one, other) == ()


def test_many_layers_with_one_difference_are_one_hint() -> None:
    paths = [f"norm{n}" for n in range(4)]
    ours = [parameter(f"{path}.weight", "LayerNorm", eps=1e-5) for path in paths]
    theirs = [parameter(f"p{n}/gamma", "LN", f"p{n}", epsilon=1e-3) for n in range(4)]
    (said,) = asked(ours, theirs, wrong=paths, paths=paths)
    assert said.endswith("in p0 of the port, and in 3 more pairs of layers")


def test_very_many_hints_are_counted() -> None:
    options = ("eps", "alpha", "groups", "num_heads", "ceil_mode", "is_causal", "rate", "mode")
    ours = [parameter("norm.weight", "X", **{o: "a" if o == "mode" else 1 for o in options})]
    theirs = [parameter("n/w", "X", "n", **{o: "b" if o == "mode" else 2 for o in options})]
    found = asked(ours, theirs)
    assert len(found) == MOST + 1
    assert found[-1] == "and 2 more options differ"


def values(**attributes):
    return {option: value for option, (value, _) in facts(attributes, rank=4).items()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"stride": (2, 2)}, {"strides": (1, 2, 2, 1), "data_format": "NHWC"}),
        ({"stride": 2}, {"strides": (1, 1, 2, 2), "data_format": "NCHW"}),
        (
            {"kernel_size": 3, "stride": (2, 2)},
            {"window_dimensions": (1, 3, 3, 1), "window_strides": (1, 2, 2, 1)},
        ),
        ({"kernel_size": (1, 3)}, {"window_dimensions": (1, 1, 1, 3)}),
        ({"padding": 0}, {"padding": "VALID"}),
        ({"padding": (1, 1)}, {"padding": 1}),
        ({"dim": -1}, {"axis": 3}),
        ({"approximate": "none"}, {"approximate": False}),
        ({"approximate": "tanh"}, {"approximate": True}),
        ({"activation": "Tanh"}, {"nonlinearity": "tanh"}),
    ],
)
def test_forms_of_one_value_are_equal(ours, theirs):
    one, other = values(**ours), values(**theirs)
    assert one == {**one, **other}
    assert set(one) == set(other)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"stride": (2, 1)}, {"strides": (1, 2, 2, 1), "data_format": "NHWC"}),
        (
            {"kernel_size": 3, "stride": 2},
            {"window_dimensions": (1, 3, 3, 1), "window_strides": (1, 1, 1, 1)},
        ),
        ({"kernel_size": (3, 1)}, {"window_dimensions": (1, 1, 3, 1)}),
        ({"padding": 1}, {"padding": "VALID"}),
        ({"dim": -1}, {"axis": 1}),
        ({"approximate": "none"}, {"approximate": True}),
        ({"ceil_mode": True}, {"ceil_mode": False}),
    ],
)
def test_other_values_differ(ours, theirs):
    assert values(**ours) != values(**theirs)


def culprit_hints(ours, theirs, value=X):
    """Hints about calls without parameters at a culprit."""
    sides = []
    for attributes, shift in ((ours, 0.0), (theirs, 0.3)):
        tape = Tape()
        x = tape.input(value)
        tape.run("pool", np.tanh(value) + shift * value, x, path="pool", **attributes)
        sides.append(tape.records)
    found = Diagnosis(culprit="pool", operation="pool", port_culprit="pool", port_operation="pool")
    return hints(
        Sides(*sides), found, reference_layers=[], port_layers=[], mapped={},
        frameworks=("torch", "tensorflow"),
    )  # fmt: skip


def test_calls_without_parameters_are_compared_at_the_culprit() -> None:
    assert culprit_hints({"kernel_size": 3, "ceil_mode": True}, {"ceil_mode": False}) == (
        "ceil_mode is True in pool of the reference, False in pool of the port",
    )


def test_same_padding_and_half_a_window_are_alike_with_stride_1_only() -> None:
    window = {"kernel_size": 3, "padding": 1}
    assert culprit_hints({**window, "stride": 1}, {"padding": "SAME"}) == ()
    (said,) = culprit_hints({**window, "stride": 2}, {"padding": "SAME"})
    assert said == "padding is 1 in pool of the reference, 'SAME' in pool of the port"


def test_calls_of_one_kind_that_differ_do_not_say_which_is_meant() -> None:
    """A model that runs its convolutions itself: the culprit's partner is any of them."""
    from pytest_fwcompare.backends.base import Recorded
    from pytest_fwcompare.diagnose.hints import _merged

    def call(operation, **attributes):
        value = np.zeros((1, 4, 4, 3))
        return Recorded(index=0, path="", operation=operation, value=value, attributes=attributes)

    same, valid = call("Conv2D", padding="SAME"), call("Conv2D", padding="VALID", strides=2)
    assert "padding" not in _merged([same, valid], False)
    assert _merged([same, valid], False)["stride"][0] == 2
    pool = call("MaxPool", padding="VALID")
    assert _merged([same, pool], False)["padding"][0] == "same"
