"""Comparisons to render and record, made by hand: every field that a report shows."""

from __future__ import annotations

from typing import Any

from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import (
    Answer,
    Attribution,
    Change,
    Comparison,
    Control,
    Controls,
    DepthRow,
    Difference,
    Distribution,
    Drift,
    ExampleRecord,
    Examples,
    Quartiles,
    Ratio,
    TensorRow,
    Timing,
    WeightRow,
)


def timing(framework: str, milliseconds: float, **keywords: Any) -> Timing:
    return Timing(
        framework,
        first_call_s=0.25,
        forward=Quartiles(
            milliseconds / 1e3, 0.9 * milliseconds / 1e3, 1.1 * milliseconds / 1e3, 9
        ),
        backward=Quartiles(milliseconds / 500, milliseconds / 600, milliseconds / 400, 9),
        threads=2,
        shapes={"images": (16, 8, 8, 1)},
        **keywords,
    )


def equivalent(**keywords: Any) -> Comparison:
    return Comparison(
        **{
            "verdict": "equivalent",
            "reference": "torch",
            "port": "keras",
            "gap": 2.1e-15,
            "noise": 3.4e-7,
            "tensors": (
                TensorRow("output logits", "output", "equivalent", 2.1e-15, 1e-7, 3.4e-7, 5e-8),
                TensorRow(
                    "gradient of fc.weight", "parameter gradient", "equivalent", 0.0, 0.0, 0.0, 0.0
                ),
            ),
            "examples": Examples(20),
            "controls": Controls(
                (Control("fc.weight", 1e-3, True, 4e3), Control("dead.bias", 1e-3, False, 0.0)),
                ("dead.bias",),
            ),
            "timings": (timing("torch", 1.0), timing("keras", 2.5, peak_bytes=3 * 2**20)),
            "environment": {"torch": {"version": "2.13.0+cpu"}, "keras": {"version": "3.15.1"}},
            **keywords,
        }
    )


def semantic(**keywords: Any) -> Comparison:
    return Comparison(
        **{
            "verdict": "semantic",
            "reference": "torch",
            "port": "tensorflow",
            "culprit": "encoder.1.norm2",
            "port_culprit": "block_1/layer_norm",
            "cause": "epsilon",
            "evidence": (
                "with epsilon=0.001 (reference 1e-05) the difference falls 2.3e-03 to 4.0e-13",
            ),
            "gap": 2.3e-3,
            "noise": 1.3e-7,
            "tensors": (
                TensorRow(
                    name="output logits",
                    kind="output",
                    verdict="semantic",
                    gap=2.3e-3,
                    reference_noise=1.2e-7,
                    port_noise=1.3e-7,
                    jitter=5.6e-8,
                    ulp=14233.0,
                    index=(0, 3),
                    expected=0.52135,
                    obtained=0.52311,
                    example=7,
                ),
                TensorRow(
                    "gradient of encoder.1.norm2.weight",
                    "parameter gradient",
                    "semantic",
                    1.1e-3,
                    2e-7,
                    2e-7,
                    6e-8,
                    ulp=9000.0,
                    index=(2,),
                ),
                TensorRow("output attention", "output", "equivalent", 1e-15, 1e-7, 1e-7, 5e-8),
            ),
            "examples": Examples(
                20,
                ExampleRecord(
                    number=7,
                    description="batch=1, time=2; images: normal, scale 0.01",
                    shapes={"images": (1, 2), "mask": (1, 2)},
                    values={"images": [[0.0, 0.01]], "mask": [[True, False]]},
                    weights="randomised",
                    ratio=41000.0,
                ),
            ),
            "notices": ("TF32 is on",),
            "replay": "pytest --fwcompare 'tests/test_port.py::test_port[cpu-float32-eager]'",
            **keywords,
        }
    )


HOSTILE = "tests/test_port.py::test_port[<script>document.title='owned'</script>\"'&|`*_]"
"""A test's id that is markup in every language that a report is written in."""

DEPTH = (
    DepthRow("embed", "Linear", "matched", "embed", 0.0, 2.2e-16),
    DepthRow("encoder.0", "LayerNorm", "matched", "block_0", 3.1e-15, 4e-15),
    DepthRow("encoder.1.norm2", "LayerNorm", "culprit", None, 2.3e-3, 1.1e-3),
    DepthRow("", "add", "after", None, 1.9e-3, None),
    DepthRow("<b>aux</b>", "Linear", "unmatched", None, None, None),
)

DRIFT = Drift(
    case="tests/test_port.py::test_port",
    verdict="equivalent",
    gap=2.1e-15,
    reference_noise=1e-7,
    port_noise=1.3e-7,
    changes=(
        Change("verdict", float("nan"), float("nan"), float("inf"), "equivalent -> semantic"),
        Change("gap", 2.1e-15, 2.3e-3, 1.1e12, "2.1e-15 -> 0.0023"),
    ),
    moved="port",
    whose="the port moved: the reference gives the same values as when it was recorded",
    versions={"tensorflow version": ("2.20.0", "2.21.0")},
)


def distribution(role: str, kind: str = "parameter") -> Distribution:
    return Distribution(
        "fc.weight",
        kind,  # type: ignore[arg-type]
        role,  # type: ignore[arg-type]
        edges=(-1.0, 0.0, 1.0),
        counts=(3, 1),
        total=-1.25,
        squares=1.5,
    )


ATTRIBUTION = Attribution(
    "block_1/layer_norm",
    "LayerNormalization",
    "LayerNormalization",
    "backend",
    ("tensorflow",),
    (
        Answer("keras on tensorflow", False, 2.5e-2, 1e-2, 1e-7, "other outputs"),
        Answer("keras on numpy", True, 1e-8, None, 1e-7, "it has no gradients"),
        Answer("keras on torch", None, reason="it cannot be imported"),
    ),
    ("a <b>note</b>",),
)


def everything() -> Comparison:
    """A comparison in which every part of a report has something to show."""
    return semantic(
        depth=DEPTH,
        hints=("epsilon is 1e-05 (eps) in a of the reference, 0.001 in b of the port",),
        further=(
            Difference(
                "",
                between=("block_2", "fc"),
                port_culprit="add_1",
                cause="residual",
                evidence=("with the residual of the other branch it falls from 1 to 3e-16",),
            ),
            Difference("fc"),
        ),
        attribution=ATTRIBUTION,
        examples=Examples(4, semantic().examples.worst, (0.0, 3e-9, 41000.0, float("inf"))),
        weights=(
            WeightRow("dense/kernel", ("fc.weight",), "Transpose(axes=(1, 0))", "by shape"),
            WeightRow("", ("dead.bias",), "", "nothing takes it"),
        ),
        controls=Controls((Control("fc.weight", 1e-3, True, 4e3),), ("dead.bias",)),
        timings=(
            timing(
                "torch", 1.0, peak_bytes=2**20, peak_of="process", ratio=Ratio(1.0, 1.0, 1.0, 9)
            ),
            timing("tensorflow", 2.5, ratio=Ratio(2.45, 2.25, 2.75, 9), device_s=1.5e-3),
        ),
        environment={
            "torch": {"version": "2.13.0+cpu", "flags": {"tf32": False}},
            "tensorflow": {"version": "2.21.0"},
        },
        drift=DRIFT,
        distributions=tuple(
            distribution(role, kind)
            for role in ("reference", "port")
            for kind in ("parameter", "gradient")
        ),
    )


def run() -> list[Result]:
    """A run with a pass, a failure of everything, a hostile id and a test that never compared."""
    broken = Comparison(
        "error", "unknown", "unknown", message="the test failed: <i>ValueError</i>"
    )
    made = {
        "tests/test_port.py::test_right": equivalent(replay="pytest --fwcompare 'x'"),
        "tests/test_port.py::test_wrong": everything(),
        HOSTILE: semantic(verdict="precision"),
        "tests/test_port.py::test_broken": broken,
    }
    return [Result(test, test, 1, 1, comparison) for test, comparison in made.items()]
