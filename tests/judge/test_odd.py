"""The odd one of several sides: majorities, references that are odd themselves, ties."""

from __future__ import annotations

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.judge.odd import agree
from pytest_fwcompare.records import Comparison, TensorRow


def row(obtained: float, place: int = 0, name: str = "output y") -> TensorRow:
    return TensorRow(name, "output", "semantic", 0.1, 0, 0, 1e-7, 0.0, (place,), 1.0, obtained, 3)


def right(port: str) -> Comparison:
    return Comparison("equivalent", "numpy", port)


def wrong(port: str, *rows: TensorRow) -> Comparison:
    return Comparison("semantic", "numpy", port, tensors=rows)


def test_one_that_fails_among_others_is_odd():
    found = fwc.odd_one_out([right("torch"), wrong("keras", row(2.0)), right("jax")])
    assert found.names == ("keras",)
    assert not found.tie
    assert found.text == "keras is the odd one out: numpy, torch and jax agree"


def test_all_that_pass_have_no_odd_one():
    found = fwc.odd_one_out([right("torch"), right("jax")])
    assert (found.names, found.tie) == ((), False)
    assert found.text == "numpy, torch and jax agree"


def test_ports_that_agree_on_another_value_make_the_reference_odd():
    found = fwc.odd_one_out([wrong("torch", row(2.0)), wrong("keras", row(2.00001))])
    assert found.names == ("numpy",)
    assert found.text == "numpy is the odd one out: torch and keras agree"


def test_two_sides_are_a_tie():
    found = fwc.odd_one_out([wrong("torch", row(2.0))])
    assert (found.names, found.tie) == ((), True)
    assert found.text == "open which is right: numpy against torch"


def test_three_values_on_three_sides_are_a_tie():
    found = fwc.odd_one_out([wrong("torch", row(2.0)), wrong("keras", row(3.0))])
    assert (found.names, found.tie) == ((), True)


def test_two_against_two_is_a_tie():
    ports = [right("torch"), wrong("keras", row(2.0)), wrong("jax", row(2.0))]
    found = fwc.odd_one_out(ports)
    assert (found.names, found.tie) == ((), True)
    assert found.text == "open which is right: numpy and torch against keras and jax"


def test_two_faults_of_their_own_are_both_odd():
    ports = [right("torch"), wrong("keras", row(2.0)), wrong("jax", row(3.0))]
    found = fwc.odd_one_out(ports)
    assert found.names == ("keras", "jax")
    assert found.text == "keras and jax are the odd ones out: numpy and torch agree"


def test_two_that_cannot_be_told_apart_leave_it_open():
    """Their worst elements are others, so they may or may not agree with each other."""
    ports = [right("torch"), wrong("keras", row(2.0, 0)), wrong("jax", row(2.0, 1))]
    assert fwc.odd_one_out(ports).tie
    assert agree(ports[1], ports[2]) is None
    ports.insert(1, right("tensorflow"))
    assert fwc.odd_one_out(ports).names == ("keras", "jax")


def test_other_tensors_wrong_are_other_faults():
    assert agree(wrong("a", row(2.0)), wrong("b", row(2.0), row(2.0, name="other"))) is False
    assert agree(wrong("a", row(2.0)), wrong("b", row(2.0))) is True
    assert agree(wrong("a", row(float("nan"))), wrong("b", row(2.0))) is None


def test_what_could_not_be_compared_is_said_and_does_not_count():
    ports = [right("torch"), wrong("keras", row(2.0)), Comparison("error", "numpy", "jax")]
    found = fwc.odd_one_out(ports)
    assert found.names == ("keras",)
    assert found.text.endswith("numpy and torch agree; jax could not be compared")


def test_mistakes_are_refused():
    with pytest.raises(fwc.UsageError, match="expected comparisons, got none"):
        fwc.odd_one_out([])
    with pytest.raises(fwc.UsageError, match="several comparisons of one framework"):
        fwc.odd_one_out([right("torch"), right("torch")])
    with pytest.raises(fwc.UsageError, match="against one reference, got jax, numpy"):
        fwc.odd_one_out([right("torch"), Comparison("equivalent", "jax", "keras")])
    named = fwc.odd_one_out({"old": right("torch"), "new": wrong("torch", row(2.0))})
    assert named.names == ("new",)


def test_models_that_were_compared():
    """Two rectifiers against a leaky one: it is odd, also where it was taken as the reference."""
    torch = pytest.importorskip("torch")
    inputs = {"x": fwc.TensorSpec(("batch", 4))}
    plain, leaky = torch.nn.ReLU(), torch.nn.LeakyReLU(0.1)

    def against(reference, **ports):
        made = {
            name: fwc.compare(reference, port, inputs=inputs, examples=4, explain=False)
            for name, port in ports.items()
        }
        return fwc.odd_one_out(made).names

    assert against(plain, again=torch.nn.ReLU(), leaky=leaky) == ("leaky",)
    assert against(leaky, one=plain, two=torch.nn.ReLU()) == ("torch",)
