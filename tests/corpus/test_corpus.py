"""Ports of our own corpus, judged with no help: a few in every run, all of them when slow."""

from __future__ import annotations

import warnings

import pytest

import pytest_fwcompare as fwc
from corpus import FAMILIES, Fault, PortCase, load_family

QUICK = {
    "unet": ("zero-padding",),
    "gpt": ("head-not-trained",),
    "wavenet": ("no-relu",),
}
"""Families and faults of every run; their right ports come along."""

CAUSES = """
norm-epsilon norm-axis norm-affine running-statistics padding padding-value pool-count
stride-dilation resize-alignment flatten-order kernel-layout channel-order gate-order cell-variant
initial-state bias activation-variant activation-parameter activation-place softmax-axis
attention-scale mask head-split fused-order position embedding residual reduction clipping
gradient-path dropout low-precision unstable-formula
""".split()  # noqa: SIM905


def cases(family: str) -> list[PortCase]:
    """The cases of a family, skipped where a framework is missing."""
    try:
        with warnings.catch_warnings():
            # Frameworks warn of each other when they are imported.
            warnings.simplefilter("ignore")
            return load_family(family)
    except ModuleNotFoundError as error:
        pytest.skip(f"{family} needs {error.name}")


def compared(case: PortCase, name: str | None, examples: int) -> fwc.Comparison:
    """One port against its reference, weights mapped automatically."""
    import torch

    dtypes = {"tokens": "int64", "mask": "bool"}
    inputs = {
        key: fwc.TensorSpec(
            one.shape,
            dtype=dtypes.get(one.kind, "float32"),
            kind=one.kind,
            high=one.high,
            axes=one.axes,
            port_axes=one.port_axes,
        )
        for key, one in case.inputs.items()
    }
    outputs = None
    if case.output_axes is not None:
        outputs = {
            f"output{index}": fwc.TensorSpec(("any",) * len(own), axes=own, port_axes=theirs)
            for index, (own, theirs) in enumerate(
                zip(case.output_axes, case.port_output_axes or (), strict=True)
            )
        }
    checks = ["forward", "backward"]
    if name is not None and case.faults[name].shows_in == "training":
        checks.append("training")

    def reference() -> object:
        torch.manual_seed(0)
        return case.make_reference("float32")

    return fwc.compare(
        reference,
        lambda: case.make_port("float32", name),
        inputs=inputs,
        outputs=outputs,
        checks=tuple(checks),
        examples=examples,
    )


def is_copy_fault(case: PortCase, name: str) -> bool:
    """Whether the fault is in the copying alone, so that a mapping of its own makes it right."""
    return bool(getattr(case.make_port("float32", name), "copy_fault", None))


def check(case: PortCase, name: str | None, examples: int) -> fwc.Comparison:
    """The verdict is right."""
    found = compared(case, name, examples)
    wanted = case.faults[name].verdict if name else "equivalent"
    if name is not None and is_copy_fault(case, name):
        wanted = "equivalent"
    assert found.verdict == wanted, f"{case.name}/{name}\n{found.summary()}"
    return found


@pytest.mark.parametrize("family", QUICK)
def test_right_ports_pass_and_faults_are_named(family: str) -> None:
    for case in cases(family):
        check(case, None, 4)
        for name in QUICK[family]:
            found, record = check(case, name, 4), case.faults[name]
            assert found.culprit == record.culprit, found.summary()
            assert found.cause == record.cause, found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_port_gets_its_verdict(family: str) -> None:
    for case in cases(family):
        for name in (None, *case.faults):
            check(case, name, 20)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_records_are_true(family: str) -> None:
    from corpus.truth import failures

    for case in cases(family):
        wrong = [text for name in (None, *case.faults) for text in failures(case, name)]
        assert not wrong


@pytest.mark.parametrize("family", QUICK)
def test_records_use_the_words_of_the_table(family: str) -> None:
    for case in cases(family):
        paths = set()
        if case.reference_framework == "torch":
            paths = set(dict(case.make_reference("float32").named_modules()))
        for name, fault in case.faults.items():
            assert isinstance(fault, Fault)
            assert fault.cause in CAUSES, name
            assert fault.culprit in paths or not paths, name
