"""What layers leave over on both sides is paired by itself, and only what fits."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.automatic import automatic_mapping
from pytest_fwcompare.weights.remnants import unlike


def parameter(name, *shape, layer="", kind="", trainable=True):
    role = name.rpartition(".")[2]
    return Parameter(name, shape, "float32", trainable, layer=layer, kind=kind, role=role)


REFERENCE = [
    *(
        parameter(f"rnn.{name}_l{n}", *shape, layer="rnn", kind="GRU")
        for n, width in enumerate((5, 7))
        for name, shape in (
            ("weight_ih", (21, width)),
            ("weight_hh", (21, 7)),
            ("bias_ih", (21,)),
            ("bias_hh", (21,)),
        )
    ),
    parameter("head.weight", 3, 7, layer="head", kind="Linear"),
    parameter("head.bias", 3, layer="head", kind="Linear"),
]


def port(*left_out):
    cells = [
        parameter(f"cells.{n}.{name}", *shape)
        for n, width in enumerate((5, 7))
        for name, shape in (
            ("wx", (width, 21)),
            ("wh", (7, 21)),
            ("bx", (21,)),
            ("bh", (21,)),
        )
    ]
    every = [*cells, parameter("head.w", 7, 3), parameter("head.b", 3)]
    return [p for p in every if p.name not in left_out]


def mapped(theirs):
    return automatic_mapping(
        REFERENCE, theirs, reference_framework="torch", port_framework="jax",
        evidence=None,
    )  # fmt: skip


def sources(mapping):
    return {link.port: link.sources for link in mapping.links}


def test_a_second_bias_finds_its_own():
    found = mapped(port())
    for layer in (0, 1):
        assert sources(found)[f"cells.{layer}.bx"] == (f"rnn.bias_ih_l{layer}",)
        assert sources(found)[f"cells.{layer}.bh"] == (f"rnn.bias_hh_l{layer}",)
    assert not found.unmatched_port
    assert not found.unmatched_reference
    values = {p.name: np.random.default_rng(0).standard_normal(p.shape) for p in REFERENCE}
    made = found.port_values(values)
    np.testing.assert_array_equal(made["cells.1.bh"], values["rnn.bias_hh_l1"])


def test_what_only_one_side_has_stays_alone():
    found = mapped(port("cells.0.bh", "cells.1.bh"))
    assert sorted(found.unmatched_reference) == ["rnn.bias_hh_l0", "rnn.bias_hh_l1"]
    extra = [*port("cells.0.bh", "cells.1.bh"), parameter("offset", 20)]
    found = mapped(extra)
    assert list(found.unmatched_port) == ["offset"]
    assert "(20,)" in found.unmatched_port["offset"]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("encoder.gate", "decoder.gate", 2 / 3), ("gate", "gate", 0.0), ("", "", 0)],
)
def test_likeness_of_names(one, other, distance):
    assert unlike(one, other) == pytest.approx(distance)


@pytest.mark.parametrize("turned", [False, True])
def test_a_fused_matrix_of_unknown_layout_is_read_either_way(turned):
    # Grouped queries: more values for queries than for keys. The square output projection is as
    # large as keys and values together and must not be taken for them.
    reference = [
        parameter(f"attention.{name}.weight", size, 16, layer=f"attention.{name}", kind="Linear")
        for name, size in (("query", 16), ("key", 8), ("value", 8), ("merge", 16))
    ]
    fused = (16, 32) if turned else (32, 16)
    theirs = [parameter("qkv", *fused), parameter("proj", 16, 16)]
    found = automatic_mapping(
        reference, theirs, reference_framework="torch", port_framework="jax", evidence=None
    )
    made = sources(found)
    assert made["qkv"] == tuple(f"attention.{name}.weight" for name in ("query", "key", "value"))
    assert made["proj"] == ("attention.merge.weight",)
    values = {p.name: np.random.default_rng(1).standard_normal(p.shape) for p in reference}
    joined = np.concatenate([values[name] for name in made["qkv"]])
    np.testing.assert_array_equal(found.port_values(values)["qkv"], joined.T if turned else joined)
