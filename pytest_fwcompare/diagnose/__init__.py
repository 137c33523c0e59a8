"""Says where two implementations part, and why: culprit by value alignment, cause by repair.

Pure NumPy: knows arrays and names, no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_fwcompare.backends.base import Array, Parameter, Recorded

if TYPE_CHECKING:
    from pytest_fwcompare.diagnose.locate import Sides


@dataclass(frozen=True)
class BufferChange:
    """A buffer before and after one step in training mode, in the reference's layout.

    Attributes:
        before: value before the step, on both sides.
        expected: the reference's value after it.
        obtained: the port's value after it.
    """

    before: Array
    expected: Array
    obtained: Array


@dataclass(frozen=True)
class Diagnosis:
    """Where two implementations part, and why.

    Attributes:
        culprit: path of the reference's module where the difference begins; "" for the root;
            None if no such place was found.
        between: for code run by a container itself, the submodules just before and after it.
        operation: the reference's operation there.
        port_culprit: path of the port's layer, and `port_operation` its operation; None unknown.
        cause: one word of the cause table, only where it is proved; else None.
        evidence: sentences with numbers.
        local_gap: relative difference at the culprit between the reference's tensor and the
            port's nearest.
        tried: repairs that were tried and did not give the port's values.
        others: further, independent differences in data-flow order.
        backward: True if only gradients differ.
    """

    culprit: str | None = None
    between: tuple[str, str] | None = None
    operation: str = ""
    port_culprit: str | None = None
    port_operation: str = ""
    cause: str | None = None
    evidence: tuple[str, ...] = ()
    local_gap: float = 0.0
    tried: tuple[str, ...] = ()
    others: tuple[Diagnosis, ...] = ()
    backward: bool = False


def diagnose(
    reference_records: Sequence[Recorded],
    port_records: Sequence[Recorded],
    *,
    reference_parameters: Mapping[str, Array] | None = None,
    reference_layers: Sequence[Parameter] = (),
    parameter_gradient_mismatch: Mapping[str, tuple[Array, Array]] | None = None,
    buffer_mismatch: Mapping[str, BufferChange] | None = None,
    reference_outputs: Mapping[str, Array] | None = None,
    port_outputs: Mapping[str, Array] | None = None,
    port_working_outputs: Mapping[str, Array] | None = None,
    verdict: str = "semantic",
    sides: Sides | None = None,
    gradients_in_doubt: Callable[[], bool] = lambda: True,
) -> Diagnosis:
    """Name the culprit, and the cause where it can be proved.

    Args:
        reference_records: the reference's float64 pass, in execution order, with gradients where
            the backward pass was run.
        port_records: the port's float64 pass on the same inputs, weights and cotangents.
        reference_parameters: float64 values by parameter name.
        reference_layers: `Side.parameters()` of the reference; tells which module owns one.
        parameter_gradient_mismatch: by the reference's parameter name, the expected and the
            obtained gradient, both in the reference's layout, where they differ; None where they
            were not compared.
        buffer_mismatch: buffers that a training step left different.
        reference_outputs: float64 outputs by name.
        port_outputs: the same of the port.
        port_working_outputs: the port's outputs in its working dtype, for verdict "precision".
        verdict: what the judge said. For "precision" and "nonfinite" a formula that cancels or
            overflows is looked for, and a place where the port rounds to a narrower dtype.
        sides: both passes, where they have been aligned already.
        gradients_in_doubt: whether the port's gradients may not be the derivatives of its own
            outputs; asked where the forward passes part, before the gradients are looked at.
    """
    from pytest_fwcompare.diagnose.explain import explain

    return explain(
        reference_records,
        port_records,
        reference_parameters=reference_parameters or {},
        reference_layers=reference_layers,
        parameter_gradient_mismatch=parameter_gradient_mismatch,
        buffer_mismatch=buffer_mismatch or {},
        reference_outputs=reference_outputs or {},
        port_outputs=port_outputs or {},
        port_working_outputs=port_working_outputs or {},
        verdict=verdict,
        sides=sides,
        gradients_in_doubt=gradients_in_doubt,
    )
