"""What every real port is judged with: nothing but the models and their inputs."""

from __future__ import annotations

import pytest_fwcompare as fwc


def judge(ported, *, examples: int = 6, explain: bool = True) -> fwc.Comparison:
    return fwc.compare(
        ported.reference,
        ported.port,
        inputs=ported.inputs,
        weights="auto",
        examples=examples,
        explain=explain,
    )


def assert_all_mapped(found: fwc.Comparison, beside: tuple[str, ...] = ()) -> None:
    """Every parameter has its partner but those whose names contain one of `beside`."""
    alone = [
        row.port or row.references[0] for row in found.weights if not (row.port and row.references)
    ]
    left = [name for name in alone if not any(word in str(name) for word in beside)]
    assert not left, left
