"""Recorded operations come back as they were, down to which arrays are the same object."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.gate.schema import load, problems
from pytest_fwcompare.golden.intermediates import decode, encode, size_of
from pytest_fwcompare.golden.store import Reader

SCHEMA = load("pytest_fwcompare.golden", "index.schema.json")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def through(records: list[Recorded], *, gradients: bool = True) -> list[Recorded]:
    """Kept as JSON with arrays aside, and read again."""
    arrays: list[Array] = []

    def add(array: Array) -> str:
        arrays.append(array)
        return f"0/{len(arrays) - 1}"

    kept = json.loads(json.dumps(encode(records, add), allow_nan=False))
    for entry in kept:
        assert list(problems(entry, SCHEMA["$defs"]["recorded"], "it", SCHEMA)) == []
    return list(decode(kept, lambda name: arrays[int(name[2:])], gradients=gradients))


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_facts_keep_their_kind(attributes: dict[str, Any]) -> None:
    record = Recorded(0, "a.b", "op", np.ones(2), attributes=attributes)
    (found,) = through([record])
    assert repr(found.attributes) == repr(attributes), "repr, as NaN is not equal to itself"


def test_what_is_no_plain_fact_is_left_out() -> None:
    attributes = {"axis": np.int64(1), "table": np.arange(3), "call": len, "deep": (1, object())}
    (found,) = through([Recorded(0, "", "op", np.ones(2), attributes=attributes)])
    assert set(found.attributes) == {"axis", "table"}
    assert found.attributes["axis"] == 1
    np.testing.assert_array_equal(found.attributes["table"], np.arange(3))


def test_all_fields_come_back() -> None:
    value, gradient = np.arange(3.0), np.ones(3)
    record = Recorded(
        7, "p", "add", value, (1, 2), ("w",), {"axis": (0, -1)}, (value,), gradient, "x:1", True
    )
    (found,) = through([record])
    for name in ("index", "path", "operation", "inputs", "parameters", "place", "is_module"):
        assert getattr(found, name) == getattr(record, name)
    assert found.attributes == {"axis": (0, -1)}
    np.testing.assert_array_equal(found.gradient, gradient)
    (forward,) = through([record], gradients=False)
    assert forward.gradient is None
    assert size_of([record, record]) == value.nbytes + gradient.nbytes


def test_one_array_is_one_object(tmp_path: Any) -> None:
    """`diagnose` follows an argument to the value that it is."""
    from pytest_fwcompare import GoldenReference
    from pytest_fwcompare import networks as fn
    from pytest_fwcompare.golden.record import record
    from pytest_fwcompare.golden.session import asked

    net = fn.Sequential([fn.Dense(2), fn.Activation("tanh")], input_shape=(3,))
    record(net, tmp_path, "case", asked({"inputs": net.inputs, "examples": 1}))
    side = GoldenReference(tmp_path).opened().side
    assert isinstance(side._reader, Reader)  # type: ignore[attr-defined]
    kept = next(e for e in side._reader.index["passes"].values() if e["recorded"])  # type: ignore[attr-defined]
    from pytest_fwcompare.golden.replay import GoldenPass, GoldenSide

    assert isinstance(side, GoldenSide)
    records = GoldenPass(side, kept).recorded()
    values = {id(record.value) for record in records}
    assert any(id(array) in values for record in records for array in record.arguments)
