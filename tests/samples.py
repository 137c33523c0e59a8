"""Comparisons to render and record, made by hand: every field that a report shows."""

from __future__ import annotations

from typing import Any

from pytest_fwcompare.records import (
    Comparison,
    Control,
    Controls,
    ExampleRecord,
    Examples,
    Quartiles,
    TensorRow,
    Timing,
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
                TensorRow("gradient of fc.weight", "parameter gradient", "equivalent", 0, 0, 0, 0),
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
