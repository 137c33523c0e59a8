"""Two sides recorded in float64 on the same inputs and cotangents, and what is asked of them."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.diagnose import diagnose


def given(inputs):
    """Arrays as arguments: numbers in float32."""
    return [
        Argument(f"x{n}", value.astype("float32") if value.dtype.kind == "f" else value)
        for n, value in enumerate(inputs)
    ]


def recorded(side, arguments):
    """A recorded pass, and the gradients of the parameters for cotangents drawn by one seed."""
    made = side.forward(arguments, precision="double", record=True)
    cotangents = {
        name: np.random.default_rng(4).normal(size=value.shape)
        for name, value in made.outputs.items()
    }
    return made, made.backward(cotangents).parameters


def asked(sides, passes, mismatch, **options):
    """Diagnosis of two passes, the reference's first."""
    return diagnose(
        passes[0].recorded(),
        passes[1].recorded(),
        reference_parameters=sides[0].read(),
        reference_layers=sides[0].parameters(),
        parameter_gradient_mismatch=mismatch,
        reference_outputs=passes[0].outputs,
        port_outputs=passes[1].outputs,
        **options,
    )
