from __future__ import annotations

import pytest_fwcompare as fwc
from pytest_fwcompare import networks
from pytest_fwcompare.progress import Step, listening, tell
from pytest_fwcompare.sides import InFramework


def test_nobody_has_to_listen() -> None:
    tell("example", 1, 20)


def test_a_listener_hears_what_is_told_until_it_leaves() -> None:
    heard: list[Step] = []
    with listening(heard.append):
        tell("example", 3, 20)
        tell("timing")
    tell("example", 4, 20)
    assert [str(step) for step in heard] == ["example 3 of 20", "timing"]


def test_the_inner_of_two_listeners_hears() -> None:
    outer: list[Step] = []
    inner: list[Step] = []
    with listening(outer.append):
        with listening(inner.append):
            tell("a")
        tell("b")
    assert (outer, inner) == ([Step("b")], [Step("a")])


def test_a_number_without_an_end() -> None:
    assert str(Step("step", 3)) == "step 3"


def test_a_comparison_tells_every_example_and_what_comes_after() -> None:
    heard: list[Step] = []
    net = networks.Sequential([networks.Dense(3)], input_shape=(4,))
    with listening(heard.append):
        made = fwc.compare(
            InFramework(net, "numpy"), InFramework(net, "torch"), inputs=net.inputs, examples=4
        )
    told = [str(step) for step in heard]
    assert made.passed
    assert told[:3] == ["opening the reference", "opening the port", "pairing the weights"]
    assert [text for text in told if text.startswith("example")] == [
        f"example {number} of 4" for number in range(1, 5)
    ]
    assert told[-1] == "disturbing the port"
    assert len(made.examples.ratios) == made.examples.count == 4
    assert max(made.examples.ratios) < 1
