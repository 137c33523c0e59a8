from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import Evidence, Link, Mapping
from pytest_fwcompare.weights import transforms as t


def test_port_values_keep_the_dtype() -> None:
    mapping = Mapping((Link("k", ("w",), t.Transpose((1, 0)), "because"),))
    made = mapping.port_values({"w": np.ones((2, 3), np.float32)})
    assert made["k"].shape == (3, 2)
    assert made["k"].dtype == np.float32


def test_missing_and_unfit_values_are_named() -> None:
    mapping = Mapping((Link("k", ("w",), t.Transpose((1, 0)), ""),))
    with pytest.raises(MappingError, match=r"port parameter 'k' is made from 'w', but the"):
        mapping.port_values({})
    with pytest.raises(MappingError, match=r"Transpose.* does not fit w of shape \(2,\)"):
        mapping.port_values({"w": np.ones(2)})


def test_pieces_are_put_together() -> None:
    """Three projections cut from one: one gradient of the whole."""
    links = tuple(
        Link(part, ("qkv",), t.Chain((t.Take(n, 3, 0), t.Transpose((1, 0)))), "")
        for n, part in enumerate("qkv")
    )
    gradients = {part: np.full((2, 4), n + 1.0) for n, part in enumerate("qkv")}
    found = Mapping(links).pull_back(gradients, {"qkv": (12, 2)})
    ((ports, gradient),) = found["qkv"]
    assert ports == ("q", "k", "v")
    np.testing.assert_array_equal(gradient, np.repeat([1.0, 2.0, 3.0], 4)[:, None] * np.ones(2))


def test_untied_copies_stay_apart() -> None:
    """The gradient of a tied matrix is the sum; each copy alone must be seen to be wrong."""
    links = (Link("embed", ("table",), t.Identity(), ""),
             Link("head", ("table",), t.Transpose((1, 0)), ""))  # fmt: skip
    gradients = {"embed": np.ones((3, 2)), "head": 2 * np.ones((2, 3))}
    found = Mapping(links).pull_back(gradients, {"table": (3, 2)})
    assert [(ports, gradient[0, 0]) for ports, gradient in found["table"]] == [
        (("embed",), 1.0),
        (("head",), 2.0),
    ]


def test_cut_twice_is_two_copies() -> None:
    links = tuple(Link(f"{copy}{n}", ("w",), t.Take(n, 2, 0), "") for copy in "ab" for n in (0, 1))
    gradients = {link.port: np.full(2, float(place)) for place, link in enumerate(links)}
    found = Mapping(links).pull_back(gradients, {"w": (4,)})["w"]
    assert [(ports, gradient.tolist()) for ports, gradient in found] == [
        (("a0", "a1"), [0, 0, 1, 1]),
        (("b0", "b1"), [2, 2, 3, 3]),
    ]


def test_a_sum_gives_each_source_the_whole_gradient() -> None:
    mapping = Mapping(
        (Link("bias", ("b1", "b2"), t.Sum(), ""), Link("none", (), t.Zeros((2,)), ""))
    )
    found = mapping.pull_back(
        {"bias": np.arange(3.0), "none": np.ones(2)}, {"b1": (3,), "b2": (3,)}
    )
    for source in ("b1", "b2"):
        ((ports, gradient),) = found[source]
        assert ports == ("bias",)
        np.testing.assert_array_equal(gradient, [0, 1, 2])


def test_a_gradient_that_does_not_exist_stays_none() -> None:
    mapping = Mapping((Link("a", ("w",), t.Identity(), ""), Link("b", ("v",), t.Identity(), "")))
    assert mapping.pull_back({"a": None}, {"w": (2,), "v": (2,)}) == {"w": [(("a",), None)]}


def test_one_missing_piece_counts_as_zero() -> None:
    links = tuple(Link(f"p{n}", ("w",), t.Take(n, 2, 0), "") for n in (0, 1))
    found = Mapping(links).pull_back({"p0": None, "p1": np.ones(2)}, {"w": (4,)})
    ((ports, gradient),) = found["w"]
    assert gradient is not None
    assert gradient.tolist() == [0, 0, 1, 1]
    assert ports == ("p0", "p1")


def test_code_can_be_pasted() -> None:
    mapping = Mapping(
        (
            Link("a", ("x",), t.Identity(), "same"),
            Link("b", ("y", "z"), t.Each(t.Transpose((1, 0)), t.Concatenate(0)), "fused"),
            Link("c", ("y",), t.Gather(np.array([1, 0])), "odd"),
        ),
        {"u": "nothing takes it"},
        {"v": "kept"},
    )
    code = mapping.code()
    space: dict[str, object] = {}
    exec(code, space)
    assert space["weights"] == {
        "a": "x",
        "b": (("y", "z"), t.Each(t.Transpose((1, 0)), t.Concatenate(0))),
        "c": ("y", t.Gather(np.array([1, 0]))),
    }
    assert "# not used: 'u': nothing takes it" in code
    rows = mapping.rows()
    assert [row.port for row in rows] == ["a", "b", "c", "v", ""]
    assert rows[1].references == ("y", "z")
    assert rows[1].transform == repr(mapping.links[1].transform)
    assert rows[-1].reason == "nothing takes it"


def test_evidence_prefers_agreement_then_more_found() -> None:
    right, partly, less = Evidence(0.9, 1e-9), Evidence(0.95, 0.1), Evidence(0.5, 0.01)
    assert right.better_than(partly)
    assert not partly.better_than(right)
    assert partly.better_than(less)
    assert not less.better_than(partly)
    assert not right.better_than(Evidence(0.1, 1e-12))
