from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import Evidence, explicit_mapping
from pytest_fwcompare.weights import transforms as t

from .trees import dense_keras, distinct, linear_torch, parameter

REFERENCE = [*linear_torch("encoder.query", 4, 4), *linear_torch("encoder.key", 4, 4),
             *linear_torch("head", 4, 3)]  # fmt: skip
PORT = [*dense_keras("one", 4, 4), *dense_keras("two", 4, 4), *dense_keras("scores", 4, 3)]


def explicit(spec, reference=REFERENCE, port=PORT, evidence=None):
    return explicit_mapping(
        spec, reference, port, reference_framework="torch", port_framework="keras",
        evidence=evidence,
    )  # fmt: skip


def by_port(mapping):
    return {link.port: (link.sources, link.transform) for link in mapping.links}


def test_a_name_follows_the_documented_layout_and_the_rest_is_found() -> None:
    mapping = explicit(
        {"one/kernel": "encoder.key.weight", "one/bias": "encoder.key.bias"},
    )
    found = by_port(mapping)
    assert found["one/kernel"] == (("encoder.key.weight",), t.Transpose((1, 0)))
    assert found["two/kernel"] == (("encoder.query.weight",), t.Transpose((1, 0)))
    assert found["scores/bias"] == (("head.bias",), t.Identity())
    assert [link.port for link in mapping.links] == [p.name for p in PORT]
    assert mapping.links[0].reason == "given"


@pytest.mark.parametrize("given", [t.Identity(), lambda w: w.copy(), (0, 1)])
def test_a_given_transform_is_obeyed_even_where_the_layout_says_otherwise(given) -> None:
    mapping = explicit({"one/kernel": ("encoder.query.weight", given)})
    values = distinct(REFERENCE)
    made = mapping.port_values(values)["one/kernel"]
    np.testing.assert_array_equal(made, values["encoder.query.weight"])


def test_a_function_of_several_parameters() -> None:
    port = [parameter("fused/kernel", (4, 8), "Dense"), *dense_keras("scores", 4, 3)]
    reference = [*linear_torch("q", 4, 4, False), *linear_torch("k", 4, 4, False), *REFERENCE[4:]]
    mapping = explicit(
        {"fused/kernel": (("q.weight", "k.weight"), lambda q, k: np.concatenate([k, q]).T)},
        reference, port,
    )  # fmt: skip
    values = distinct(reference)
    expected = np.concatenate([values["k.weight"], values["q.weight"]]).T
    np.testing.assert_array_equal(mapping.port_values(values)["fused/kernel"], expected)


def test_a_parameter_can_be_left_as_it_is() -> None:
    mapping = explicit({"scores/bias": None})
    assert mapping.unmatched_port == {"scores/bias": "left as it is, as given"}
    assert "head.bias" in mapping.unmatched_reference


def test_pasted_code_gives_the_mapping_back() -> None:
    first = explicit({})
    space: dict[str, object] = {}
    exec(first.code(), space)
    assert by_port(explicit(space["weights"])) == by_port(first)


def test_the_rest_is_shown_to_the_evidence_with_what_was_given() -> None:
    seen = []

    def evidence(mapping) -> Evidence:
        seen.append(by_port(mapping))
        return Evidence(1.0, 0.0)

    explicit({"scores/kernel": "head.weight"}, evidence=evidence)
    assert all("scores/kernel" in found and "one/kernel" in found for found in seen)


SQUARE = [Parameter("gram", (4, 4), "float32", True)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"ones/kernel": "head.weight"}, "the port has no parameter 'ones/kernel'; did you mean"),
        ({"one/kernel": "encoder.quary.weight"},
         "the reference has no parameter 'encoder.quary.weight'; did you mean "
         "'encoder.query.weight'"),
        ({"one/kernel": "zzz"}, "its parameters are encoder.query.weight, encoder.query.bias"),
        ({"one/kernel": "head.weight"},
         "head.weight of shape (3, 4) does not fit shape (4, 4) by any documented layout"),
        ({"scores/kernel": ("head.weight", t.Identity())},
         "expected shape (4, 3), but Identity() makes (3, 4) of head.weight (3, 4)"),
        ({"scores/kernel": ("head.weight", t.Transpose((0, 2, 1)))}, "makes an error"),
        ({"scores/kernel": ("head.weight", lambda w: 2 * w.T)},
         "does more than rearrange values"),
        ({"scores/kernel": ("head.weight", lambda w: w)}, "gave (3, 4)"),
        ({"scores/kernel": ("head.weight", lambda w: w.nothing)}, "raised AttributeError"),
        ({"scores/kernel": ("head.weight", "transpose")}, "expected a Transform, a function"),
        ({"scores/kernel": ("head.weight", (1, 0), 3)}, "expected a reference name or (name"),
        ({"one/kernel": (("head.weight", "head.bias"), None)},
         "several sources (head.weight, head.bias) need a transform"),
    ],
)  # fmt: skip
def test_errors_say_what_was_wrong(spec, message) -> None:
    with pytest.raises(MappingError) as caught:
        explicit(spec)
    assert message in str(caught.value)


def test_a_name_that_fits_in_several_ways_needs_a_transform() -> None:
    reference = [parameter("cube", (4, 4, 4), "Odd")]
    port = [parameter("other", (4, 4, 4, 1), "Odder")]
    with pytest.raises(MappingError, match=r"in several ways: .*; give \(name, transform\)"):
        explicit({"other": "cube"}, reference, port)
