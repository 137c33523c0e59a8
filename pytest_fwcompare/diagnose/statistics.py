"""Explains running statistics that a training step left different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.diagnose import BufferChange, Diagnosis
from pytest_fwcompare.diagnose.beside import Repaired
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.replay import Replay

CHANNELS = 3
"""Elements that a buffer must have for two numbers to be told from it."""

AGREEMENT = 1e-5
"""Relative spread of a ratio that counts as constant: buffers are often kept in float32."""


def explain_buffers(
    sides: Sides, changes: Mapping[str, BufferChange], layers: Sequence[Parameter]
) -> list[Diagnosis]:
    """One diagnosis for each module whose buffers differ, those that differ by decades more first.

    A running statistic moves as new = old + m (statistic - old). Another momentum scales the whole
    step; a biased variance scales the batch's own statistic by (n - 1) / n.
    """
    owners = {p.name: p for p in layers}
    found: dict[str, Diagnosis] = {}
    for name, change in changes.items():
        owner = owners.get(name)
        path = owner.layer if owner is not None else name.rpartition(".")[0]
        text = _reason(name, change, _momentum(sides, path, owner))
        before = found.get(path)
        if before is not None and before.cause is not None:
            continue
        scale = float(np.abs(change.expected).max()) or 1.0
        found[path] = Diagnosis(
            culprit=path,
            operation=owner.kind if owner is not None else "",
            cause="running-statistics" if text else None,
            evidence=(text,) if text else (),
            local_gap=float(np.abs(change.expected - change.obtained).max()) / scale,
            tried=() if text else ("another momentum", "the biased or unbiased variance"),
        )
    return sorted(found.values(), key=lambda diagnosis: -_decade(diagnosis.local_gap))


def _decade(gap: float) -> int:
    """The power of ten of a gap: a port may part a little everywhere, by another convention."""
    return int(np.floor(np.log10(gap))) if 0 < gap < np.inf else 0


def _momentum(sides: Sides, path: str, owner: Parameter | None) -> float | None:
    """Momentum of the layer: share of the new statistic, as torch counts it."""
    given = owner.options.get("momentum") if owner is not None else None
    for record in [*sides.graph.records, *sides.graph.modules]:
        if given is None and record.path == path:
            given = record.attributes.get("momentum")
    return float(given) if isinstance(given, (int, float)) else None


def _reason(name: str, change: BufferChange, momentum: float | None) -> str:
    """What explains the change of a buffer; "" if nothing does."""
    before, expected, obtained = (
        np.asarray(value, np.float64)
        for value in (change.before, change.expected, change.obtained)
    )
    # As close as a buffer kept in float32 can stay.
    if np.allclose(obtained, before, rtol=1.2e-7, atol=0.0):
        return f"{name} is not updated by the port"
    ratio = _constant(obtained - before, expected - before)
    if ratio is not None:
        text = f"the port moves {name} by {ratio:.6g} of the reference's step, in every channel"
        if momentum:
            text += f": momentum {momentum * ratio:.6g} (reference {momentum:.6g})"
        return text
    for m in dict.fromkeys((momentum, 0.1, 0.01, 0.9, 0.99)):
        if not m:
            continue
        own = (expected - (1 - m) * before) / m
        other = (obtained - (1 - m) * before) / m
        share = _constant(other, own)
        if share is not None and (count := _count(share)):
            kind = "biased (divided by n)" if share < 1 else "unbiased (divided by n - 1)"
            return (
                f"{name} is updated with the {kind} variance, n={count}: a factor of {share:.8g}"
            )
    return ""


def _constant(left: Array, right: Array) -> float | None:
    """The ratio of two vectors where it is the same in all elements, else None."""
    if left.size < 2 or not np.abs(right).max():
        return None
    ratio = float(np.vdot(right, left) / np.vdot(right, right))
    spread = np.abs(left - ratio * right).max()
    return ratio if spread <= AGREEMENT * np.abs(left - right).max() + 1e-15 else None


def _count(share: float) -> int:
    """N where the share is (n - 1) / n or n / (n - 1) for a whole n, else 0."""
    small = min(share, 1 / share) if share > 0 else 0.0
    if not 0.5 <= small < 1:
        return 0
    count = 1 / (1 - small)
    return round(count) if abs(count - round(count)) < 1e-3 * count else 0


def buffers_beside(
    repaired: Repaired, changes: Mapping[str, BufferChange], layers: Sequence[Parameter]
) -> list[Diagnosis]:
    """Running statistics that differ by more than the repaired differences before them explain.

    How the reference moves a buffer is told by its own pass: new = a old + b statistic. The same
    rule is then held against the port with the statistic of the values that the port has.

    Args:
        repaired: both passes of a step in training mode.
        changes: buffers that the step left different.
        layers: parameters and buffers of the reference, to tell their modules.
    """
    owners = {p.name: p for p in layers}
    left = {}
    for name, change in changes.items():
        owner = owners.get(name)
        path = owner.layer if owner is not None else name.rpartition(".")[0]
        expected = _moved(repaired, path, change)
        if expected is None:
            continue
        scale = float(np.abs(expected).max()) or 1.0
        if float(np.abs(expected - change.obtained).max()) > AGREEMENT * scale:
            left[name] = BufferChange(change.before, expected, change.obtained)
    return explain_buffers(repaired.sides, left, layers)


def _moved(repaired: Repaired, path: str, change: BufferChange) -> Array | None:
    """Where the reference's rule moves a buffer with the port's values; None if not known."""
    size = change.before.size
    own = _statistics(repaired.before, Replay(repaired.before.graph), path, size)
    new = _statistics(repaired.sides, repaired.replay(), path, size)
    new = {key: value for key, value in new.items() if _is_known(repaired.sides, key[0])}
    before, expected = (np.asarray(v, np.float64) for v in (change.before, change.expected))
    for key in own.keys() & new.keys() if size >= CHANNELS else ():
        columns = np.stack([before.reshape(-1), own[key]], axis=1)
        rule, *_ = np.linalg.lstsq(columns, expected.reshape(-1), rcond=None)
        apart = np.abs(columns @ rule - expected.reshape(-1)).max()
        # The statistic must have a part in it, or another one would do as well.
        if apart <= AGREEMENT * np.abs(expected).max() and abs(rule[1]) > AGREEMENT:
            moved = rule[0] * before.reshape(-1) + rule[1] * new[key]
            return np.asarray(moved.reshape(before.shape))
    return None


def _statistics(
    sides: Sides, replay: Replay, path: str, size: int
) -> dict[tuple[int, str], Array]:
    """What a module computes that a buffer of that size may follow, by place and name."""
    found: dict[tuple[int, str], Array] = {}
    for place, record in enumerate(sides.graph.records):
        if record.path != path:
            continue
        if record.value.size == size:
            found[place, "value"] = record.value.reshape(-1)
        operation = replay.operation(place)
        if operation is None or operation.kind != "norm" or not operation.options.get("axes"):
            continue
        axes, x = tuple(operation.options["axes"]), operation.arguments[0]
        for name, statistic in (("mean", x.mean(axis=axes)), ("variance", x.var(axis=axes))):
            if statistic.size == size:
                found[place, name] = statistic.reshape(-1)
    return found


def _is_known(sides: Sides, place: int) -> bool:
    """Whether the port computes with what the (repaired) reference has as inputs there."""
    return all(sides.right[s] and s not in sides.unknown for s in sides.graph.inputs[place])
