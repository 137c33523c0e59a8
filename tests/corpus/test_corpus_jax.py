"""A few ports of the corpus to and from JAX in every run; the rest is in the slow tests."""

from __future__ import annotations

import pytest

from corpus.test_corpus import cases, check

QUICK = {
    # A pair of function and parameters whose cells have two biases in a plain dict.
    "scan_gru": ("scan_gru", None, None),
    # Fused matrices without a class that tells their layout.
    "rope_eqx": ("rope_eqx", "gelu-gate", "mlp.act"),
    # Loops of TensorFlow whose last states nobody uses.
    "keras_reference": ("keras_tagger", "gelu-tanh", "hidden"),
}


@pytest.mark.parametrize("family", QUICK)
def test_right_ports_pass_and_the_place_of_a_fault_is_found(family: str) -> None:
    name, fault, culprit = QUICK[family]
    case = next(case for case in cases(family) if case.name == name)
    check(case, None, 4)
    if fault is not None:
        assert check(case, fault, 4).culprit == culprit
