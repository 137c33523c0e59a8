"""The culprit is the first wrong place in data flow; fused and dead operations are none."""

from __future__ import annotations

import numpy as np
import pytest
from tape import Tape

from pytest_fwcompare.diagnose import diagnose
from pytest_fwcompare.diagnose.graph import Graph, ancestors, common_ancestor
from pytest_fwcompare.diagnose.locate import Sides, locate

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 4))
W, V = RNG.normal(size=(4, 4)), RNG.normal(size=(4, 4))


def two_layers(first=np.tanh, second=np.sin, skip=1.0):
    """x -> a.tanh -> glue add -> b.sin, with a branch that nothing uses."""
    tape = Tape()
    x = tape.input(X)
    p = tape.run("matmul", X @ W, x, path="a.proj", constants=(W,))
    t = tape.run("act", first(tape.value(p)), p, path="a.act")
    s = tape.run("add", tape.value(t) + skip * X, t, x, path="")
    tape.run("sin", second(tape.value(s)), s, path="b")
    return tape.records


def port_of(records, fused=(), transpose=True):
    """The same values with other axes and no names, some operations fused away."""
    tape = Tape()
    numbers = {}
    for record in records:
        value = record.value.T if transpose else record.value
        sources = []
        for source in record.inputs:
            while source in fused:
                source = records[source].inputs[0]
            sources.append(numbers[source])
        if record.index not in fused:
            numbers[record.index] = tape.run("op", value, *sources, path="layer")
    return tape.records


def test_a_right_port_has_no_culprit():
    assert locate(two_layers(), port_of(two_layers())) == []


@pytest.mark.parametrize("fused", [(1,), (2,), (1, 2), (3,), (1, 2, 3)])
def test_a_fused_port_has_no_culprit(fused):
    assert locate(two_layers(), port_of(two_layers(), fused)) == []


def test_the_first_wrong_operation_is_found_with_its_gap():
    (found,) = locate(two_layers(), port_of(two_layers(first=lambda x: np.tanh(x) + 1e-3)))
    assert (found.culprit, found.operation, found.between) == ("a.act", "act", None)
    assert found.port_culprit == "layer"
    assert found.port_operation == "op"
    assert found.gap == pytest.approx(1e-3, rel=0.1)
    assert found.rounding < 1e-15


def test_glue_code_is_named_with_its_neighbours():
    (found,) = locate(two_layers(), port_of(two_layers(skip=1.001)))
    assert (found.culprit, found.operation) == ("", "add")
    assert found.between == ("a.act", "b")


def test_an_output_must_be_an_output_of_the_port():
    port = port_of(two_layers())
    tape = Tape()
    tape.records = list(port)
    last = port[-1].index
    tape.run("extra", np.exp(tape.value(last)), last)
    (found,) = locate(two_layers(), tape.records)
    assert (found.culprit, found.operation) == ("b", "sin")


def test_dead_operations_are_no_culprits():
    reference = Tape()
    x = reference.input(X)
    live = reference.run("tanh", np.tanh(X), x, path="a", gradient=np.ones_like(X))
    reference.run("cos", np.cos(X), x, path="dead")
    reference.run("sin", np.sin(reference.value(live)), live, path="b", gradient=np.ones_like(X))
    port = Tape()
    y = port.input(X)
    z = port.run("t", np.tanh(X), y)
    port.run("s", np.sin(port.value(z)), z)
    assert locate(reference.records, port.records) == []


def test_independent_faults_are_all_found():
    def forked(first, second):
        tape = Tape()
        x = tape.input(X)
        left = tape.run("f", first(X), x, path="left")
        right = tape.run("g", second(X), x, path="right")
        tape.run("add", tape.value(left) + tape.value(right), left, right, path="")
        return tape.records

    reference, port = forked(np.tanh, np.sin), forked(np.arctan, np.cos)
    assert [found.culprit for found in locate(reference, port)] == ["left", "right"]


def test_a_fault_below_the_tolerance_shows_at_a_finer_one():
    port = port_of(two_layers(first=lambda x: np.tanh(x) * (1 + 1e-8)))
    assert locate(two_layers(), port) == []
    assert locate(two_layers(), port, tolerance=1e-10)[0].culprit == "a.act"


def test_trivial_tensors_neither_match_nor_accuse():
    reference, port = Tape(), Tape()
    for tape, steps in ((reference, np.arange(4.0)), (port, np.arange(1.0, 5.0))):
        x = tape.input(X)
        p = tape.run("arange", steps, path="positions")
        tape.run("add", X + 0.1 * steps, x, p, path="glue")
    assert [found.culprit for found in locate(reference.records, port.records)] == ["glue"]


def test_an_unknown_fault_gets_no_cause_and_lists_what_was_tried():
    found = diagnose(two_layers(), port_of(two_layers(skip=1.0, second=lambda x: np.sin(x) ** 3)))
    assert found.culprit == "b"
    assert found.cause is None
    assert found.evidence == ()


def test_repairs_go_on_behind_a_proved_fault():
    reference, port = Tape(), Tape()
    for tape, slope, bias in ((reference, 0.01, 1.0), (port, 0.3, 0.0)):
        x = tape.input(X)
        a = tape.run(
            "leaky_relu", np.where(X >= 0, X, slope * X), x, path="act", negative_slope=0.01
        )
        b = tape.run("sin", np.sin(tape.value(a)), a, path="mid")
        c = tape.run(
            "linear", tape.value(b) @ W.T + bias * W[0], b, path="fc", constants=(W, W[0])
        )
        tape.run("tanh", np.tanh(tape.value(c)), c, path="end")
    found = diagnose(reference.records, port.records)
    assert (found.culprit, found.cause) == ("act", "activation-parameter")
    assert "negative_slope=0.3 (reference 0.01)" in found.evidence[0]
    assert [(other.culprit, other.cause) for other in found.others] == [("fc", "bias")]


def test_two_equal_faults_in_one_container_are_its_fault():
    reference, port = Tape(), Tape()
    for tape, slope in ((reference, 0.01), (port, 0.3)):
        at = tape.input(X)
        for path in ("block.first", "block.second"):
            made = np.where(tape.value(at) >= 0, tape.value(at), slope * tape.value(at))
            at = tape.run("leaky_relu", made, at, path=path, negative_slope=0.01)
            at = tape.run("linear", made @ W.T, at, path="fc", constants=(W,))
        tape.run("tanh", np.tanh(tape.value(at)), at, path="end")
    assert diagnose(reference.records, port.records).culprit == "block"


def test_paths_and_links():
    assert ancestors("a.b.c") == ["a.b", "a", ""]
    assert ancestors("") == []
    assert common_ancestor(["a.b.c", "a.b.d"]) == "a.b"
    assert common_ancestor(["a.b", "a.b"]) == "a.b"
    assert common_ancestor(["a", "b"]) == ""
    graph = Graph(two_layers(), {"w": W})
    assert graph.containers == {"", "a"}
    assert graph.ends == (4,)
    assert graph.sources(3) == (2, 0)
    assert graph.upstream([2]) == {0, 1, 2}
    assert graph.downstream([2]) == {2, 3, 4}


def test_what_a_repair_leaves_unknown_is_not_held_against_the_port():
    reference = two_layers()
    sides = Sides(reference, port_of(two_layers(first=np.arctan)))
    assert sides.culprits() == [2]
    again = sides.repaired({2: np.arctan(reference[1].value)}, [2])
    assert again.culprits() == []
