"""From a comparison to what the baseline keeps of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pytest_fwcompare.gate.baseline import Entry, Environment, Sensitivity, key_of, rounded
from pytest_fwcompare.records import Comparison, Controls


def case_key(test: str, index: int) -> str:
    """A case's key: the test's id, and which of its comparisons it is.

    Args:
        test: node id.
        index: 1 for the first comparison of the test.
    """
    return test if index == 1 else f"{test} #{index}"


def entry_of(comparison: Comparison, axes: str) -> tuple[Entry, Environment]:
    """The figures of a comparison, rounded, and the facts they were taken with.

    Args:
        comparison: made, and no error.
        axes: the part of the case's id that names them.
    """
    facts = environment_of(comparison)
    reference_noise = max((row.reference_noise for row in comparison.tensors), default=0.0)
    entry = Entry(
        axes=axes,
        reference=comparison.reference,
        port=comparison.port,
        device=comparison.device,
        dtype=comparison.dtype,
        mode=comparison.mode,
        examples=comparison.examples.count,
        verdict=comparison.verdict,
        gap=rounded(comparison.gap),
        noise={"reference": rounded(reference_noise), "port": rounded(comparison.noise)},
        ulp={row.name: rounded(row.ulp) for row in comparison.tensors},
        sensitivity=sensitivity_of(comparison.controls),
        environment=key_of(facts),
        digest=comparison.digest,
    )
    return entry, facts


def sensitivity_of(controls: Controls) -> Sensitivity | None:
    """What the controls could notice; None where none were tried."""
    if not controls.tried:
        return None
    noticed = [control.ratio for control in controls.tried if control.noticed]
    return Sensitivity(
        len(noticed),
        len(controls.tried),
        len(controls.uncovered),
        rounded(min(noticed, default=0)),
    )


def environment_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Versions and flags of both sides and of what runs them.

    Numbers and lists, such as counts of threads and devices, are left out: they differ from one
    machine of a CI to the next and would make every diff long.
    """
    made: dict[str, dict[str, Any]] = {
        "host": {
            "machine": platform.machine(),
            "numpy": version("numpy"),
            "python": platform.python_version(),
            "system": platform.system(),
        }
    }
    for framework, facts in comparison.environment.items():
        if isinstance(facts, Mapping):
            made[framework] = {
                str(name): value
                for name, value in facts.items()
                if value is None or isinstance(value, (str, bool))
            }
    return made


def changes_of(before: Environment, after: Environment) -> dict[str, tuple[str, str]]:
    """What differs between two environments, by "torch version", each value in words."""
    found = {}
    for framework in dict.fromkeys((*before, *after)):
        old, new = before.get(framework, {}), after.get(framework, {})
        for name in dict.fromkeys((*old, *new)):
            ours, theirs = (str(facts.get(name, "none")) for facts in (old, new))
            if ours != theirs:
                found[f"{framework} {name}"] = (ours, theirs)
    return found
