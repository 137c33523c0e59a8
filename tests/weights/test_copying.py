from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import Mapping, mapping_by_copy
from pytest_fwcompare.weights import transforms as t
from pytest_fwcompare.weights.recognise import recognise


class Models:
    """Two models as dicts of arrays, and a copy function between them."""

    def __init__(self, reference, port, copy) -> None:
        self.reference = {name: np.zeros(shape, np.float32) for name, shape in reference.items()}
        self.port = {name: np.full(shape, 7, np.float32) for name, shape in port.items()}
        self.copy = copy

    def mapping(self) -> Mapping:
        lists = [
            [Parameter(name, value.shape, "float32", True) for name, value in side.items()]
            for side in (self.reference, self.port)
        ]
        return mapping_by_copy(
            *lists,
            write_reference=self.reference.update,
            copy=lambda: self.copy(self.reference, self.port),
            read_port=lambda: dict(self.port),
        )


def links(mapping: Mapping) -> dict[str, tuple[tuple[str, ...], t.Transform]]:
    return {link.port: (link.sources, link.transform) for link in mapping.links}


def test_every_usual_rearrangement_is_recognised() -> None:
    def copy(reference, port) -> None:
        port["dense"] = reference["linear"].T
        port["conv"] = reference["kernel"].transpose(2, 3, 1, 0)
        port["gates"] = np.concatenate(np.split(reference["rnn"], 3)[::-1])
        port["flipped"] = reference["kernel"][:, :, ::-1, ::-1]
        port["query"] = np.split(reference["fused"], 3)[0].T
        port["heads"] = reference["linear"].T.reshape(3, 2, 2)
        port["both"] = np.stack([reference["b1"], reference["b2"]])
        port["sum"] = reference["b1"] + reference["b2"]
        port["scalar"] = reference["scalar"]

    models = Models(
        {"linear": (4, 3), "kernel": (5, 4, 3, 3), "rnn": (6, 2), "fused": (6, 4),
         "b1": (6,), "b2": (6,), "scalar": ()},
        {"dense": (3, 4), "conv": (3, 3, 4, 5), "gates": (6, 2), "flipped": (5, 4, 3, 3),
         "query": (4, 2), "heads": (3, 2, 2), "both": (2, 6), "sum": (6,), "scalar": ()},
        copy,
    )  # fmt: skip
    found = links(models.mapping())
    assert found["dense"] == (("linear",), t.Transpose((1, 0)))
    assert found["conv"] == (("kernel",), t.Transpose((2, 3, 1, 0)))
    assert found["gates"] == (("rnn",), t.Blocks((2, 1, 0), 0))
    assert found["flipped"] == (("kernel",), t.Flip((2, 3)))
    assert found["query"] == (("fused",), t.Chain((t.Transpose((1, 0)), t.Take(0, 3, 1))))
    assert found["heads"] == (
        ("linear",), t.Chain((t.Reshape((2, 2, 3)), t.Transpose((2, 0, 1)))),
    )  # fmt: skip
    assert found["both"] == (("b1", "b2"), t.Each(t.Reshape((1, 6)), t.Concatenate(0)))
    assert found["sum"] == (("b1", "b2"), t.Sum())
    assert found["scalar"] == (("scalar",), t.Identity())


def test_the_mapping_does_what_the_function_does() -> None:
    """Also for what has no name: a fault in the copying must be kept, not repaired."""
    order = np.random.default_rng(0).permutation(12)

    def copy(reference, port) -> None:
        port["odd"] = reference["w"].ravel()[order].reshape(4, 3)
        port["mixed"] = np.stack([reference["w"][0], reference["v"]]).T
        port["gates"] = np.concatenate([np.split(reference["g"], 4)[n] for n in (0, 2, 1, 3)]).T

    models = Models(
        {"w": (3, 4), "v": (4,), "g": (8, 3)},
        {"odd": (4, 3), "mixed": (4, 2), "gates": (3, 8)}, copy,
    )  # fmt: skip
    mapping = models.mapping()
    assert isinstance(links(mapping)["odd"][1], t.Gather)
    assert "Blocks(order=(0, 2, 1, 3)" in repr(links(mapping)["gates"][1])
    rng = np.random.default_rng(1)
    values = {name: rng.standard_normal(v.shape) for name, v in models.reference.items()}
    copy(values, models.port)
    for name, value in mapping.port_values(values).items():
        np.testing.assert_array_equal(value, models.port[name])


def test_what_is_no_copy_is_named() -> None:
    def copy(reference, port) -> None:
        port["half"] = reference["w"] * 0.37
        port["zero"] = np.zeros(3, np.float32)

    mapping = Models(
        {"w": (3,), "unused": (2,)}, {"half": (3,), "zero": (3,), "own": (2,)}, copy
    ).mapping()
    assert links(mapping) == {"zero": ((), t.Zeros((3,)))}
    assert "neither copies nor sums of two" in mapping.unmatched_port["half"]
    assert mapping.unmatched_port["own"] == "the copy function does not set it"
    assert mapping.unmatched_reference["unused"] == "the copy function does not use it"


def test_a_function_that_raises() -> None:
    def copy(reference, port) -> None:
        raise KeyError("fc.weight")

    with pytest.raises(MappingError, match=r"given as weights= raised KeyError: 'fc.weight'"):
        Models({"w": (2,)}, {"v": (2,)}, copy).mapping()


def test_recognised_transforms_are_right_for_square_matrices() -> None:
    for expected in (t.Identity(), t.Transpose((1, 0)), t.Flip((0,)), t.Flip((0, 1))):
        index = expected.apply(np.arange(16).reshape(4, 4))
        assert recognise(index, [(4, 4)]) == expected
