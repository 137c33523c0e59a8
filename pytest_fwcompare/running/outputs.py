"""Which output of the port stands for which of the reference's."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_fwcompare.errors import FwcompareError


class StructureError(FwcompareError):
    """The sides do not give the same tensors: names, number, shapes or kinds differ."""


def pair_outputs(
    reference: list[str],
    port: list[str],
    reference_skipped: Mapping[str, str] | None = None,
    port_skipped: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Which output of the port stands for which of the reference's, and notices.

    What one side gives as tensors and the other, by the same name, as an object that holds none
    (a cache of keys and values) is left out and said, and so is what the reference leaves None.

    Args:
        reference: names of the reference's outputs.
        port: names of the port's.
        reference_skipped: the reference's other outputs, with the reason.
        port_skipped: the port's.

    Raises:
        StructureError: their numbers differ.
    """
    notices: list[str] = []
    if set(reference) != set(port):
        lost = {name: why for name, why in (port_skipped or {}).items() if not is_none(why)}
        spare = _without_counterpart(port, reference, reference_skipped or {}, "port", notices)
        alone = _without_counterpart(reference, port, lost, "reference", notices)
        port = [name for name in port if name not in spare]
        reference = [name for name in reference if name not in alone]
    if set(reference) == set(port) and reference:
        return {name: name for name in reference}, notices
    if len(reference) == len(port) and reference:
        return dict(zip(reference, port, strict=True)), notices
    message = (
        f"the reference gives {len(reference)} outputs ({', '.join(reference)}), the port "
        f"{len(port)} ({', '.join(port)})"
    )
    if set(port) > set(reference) or set(reference) > set(port):
        message += "; a missing output is never skipped"
    raise StructureError(message)


def is_none(reason: str) -> bool:
    """Whether a skipped output was None, by the reason that a backend gives."""
    return reason.endswith("None")


def _without_counterpart(
    names: list[str], others: list[str], skipped: Mapping[str, str], role: str, notices: list[str]
) -> set[str]:
    """Names of one side that stand, or whose container stands, for what the other skipped."""
    other = "reference" if role == "port" else "port"
    found = set()
    for gone, reason in skipped.items():
        members = [
            name
            for name in names
            if name not in others and (name == gone or name.startswith(f"{gone}."))
        ]
        if members:
            found.update(members)
            notices.append(
                f"{role}: output {gone!r} ({len(members)} tensors) is not compared: on the "
                f"{other}'s side it is {reason.removeprefix('is ')}"
            )
    return found
