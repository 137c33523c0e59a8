"""The benchmark of random changes: its ports are right, its changes wrong, its words told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

HERE = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def mutations():
    """The script as a module; what it put on the path is taken off again."""
    path, known = list(sys.path), set(sys.modules)
    spec = importlib.util.spec_from_file_location("mutations", HERE / "mutations.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = made
    spec.loader.exec_module(made)
    yield made
    sys.path[:] = path
    for name in {n for n in sys.modules if n.split(".")[0] in ("mutations", "mutants")} - known:
        del sys.modules[name]


@pytest.mark.parametrize("net", ["mlp", "ranking", "conv"])
@pytest.mark.parametrize("target", ["torch", "fused"])
def test_the_right_port_is_right(mutations, net, target) -> None:
    row = mutations.judge(mutations.Mutant(net, "", 0, "torch", target))
    assert (row["verdict"], row["named"]) == ("equivalent", "right"), row


@pytest.mark.parametrize(
    ("net", "change", "operation", "cause"),
    [
        ("mlp", "no-activation", "gelu", "activation-place"),
        ("mlp", "a-wave-added", "gelu", None),
        ("ranking", "mean-for-sum", "sum", "reduction"),
        ("mlp", "detached", "gelu", "gradient-path"),
        ("conv", "weighed-by-a-ramp", "conv", None),
    ],
)
def test_a_change_is_planted_where_it_says(mutations, net, change, operation, cause) -> None:
    (one, *_) = [
        made
        for made in mutations.mutants([net], [change], "torch", ["torch"])
        if mutations.calls(net, False)[made.call][0] == operation
    ]
    row = mutations.judge(one)
    assert (row["verdict"], row["cause"]) == ("semantic", cause), mutations.line(row)
    assert row["named"] == ("none" if cause is None else "right")
    assert row["place"] in ("exact", "near")


def test_a_word_that_is_not_true_is_a_wrong_name(mutations) -> None:
    change = next(c for c in mutations.CHANGES if c.name == "scaled")
    row = {"verdict": "semantic", "cause": "mask", "evidence": ["with the mask transposed"]}
    assert mutations.named(row, change) == "WRONG"
    assert mutations.named({**row, "evidence": ["with scale=1.07"]}, change) == "right"
    factor = {**row, "cause": "residual", "evidence": ["with a factor of 1.07"]}
    assert mutations.named(factor, change) == "WRONG"
    assert mutations.named({**row, "cause": None}, change) == "none"
    assert mutations.named({**row, "verdict": "equivalent"}, change) == "unseen"
    assert mutations.named(row, None) == "WRONG"
    told = {"net": "mlp", "source": "torch", "target": "torch", "change": "scaled", "call": 3}
    text = mutations.line({**told, **row, "operation": "add", "path": "", "named": "WRONG"})
    assert text == (
        "WRONG  mlp torch->torch: scaled in add of the root (3): semantic mask: "
        "with the mask transposed"
    )


def test_what_is_drawn_is_spread_and_repeats(mutations) -> None:
    every = mutations.mutants(["mlp", "gated"], [], "torch", ["torch"])
    drawn = mutations.drawn(every, 20, 1)
    assert drawn == mutations.drawn(every, 20, 1) != mutations.drawn(every, 20, 2)
    assert {one.net for one in drawn} == {"mlp", "gated"}
    assert len({one.change for one in drawn}) > 7


def test_totals_count_what_is_named(mutations) -> None:
    rows = [{"named": "right", "place": "exact"}, {"named": "WRONG", "place": "far"}]
    text = mutations.totals(rows)
    assert "cause wrongly named  1" in text
    assert "{'exact': 1, 'far': 1}" in text
