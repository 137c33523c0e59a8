"""The plain values of a comparison: frozen dataclasses, to and from JSON, no framework, no pytest.

`comparison.py` holds the `Comparison`, `parts.py` what it is made of; both are imported from here.
"""

from pytest_fwcompare.records.comparison import FORMAT, Comparison
from pytest_fwcompare.records.parts import (
    VERDICTS,
    Answer,
    Attribution,
    Change,
    Control,
    Controls,
    DepthRow,
    Difference,
    Digest,
    Distribution,
    Drift,
    ExampleRecord,
    Examples,
    Fingerprint,
    Quartiles,
    Ratio,
    TensorRow,
    Timing,
    Verdict,
    WeightRow,
)

__all__ = [
    "Answer",
    "Attribution",
    "Change",
    "Comparison",
    "Control",
    "Controls",
    "DepthRow",
    "Difference",
    "Digest",
    "Distribution",
    "Drift",
    "ExampleRecord",
    "Examples",
    "FORMAT",
    "Fingerprint",
    "Quartiles",
    "Ratio",
    "TensorRow",
    "Timing",
    "VERDICTS",
    "Verdict",
    "WeightRow",
]
