"""Tensors that one side drops more often than the other.

Dropouts of equal tensors get one mask, since nothing tells which of them the port means. So a port
that drops a tensor once and uses it twice gives the values of a reference that drops it twice,
though there the masks are independent: what no value can show is counted.
"""

from __future__ import annotations

from pytest_fwcompare.dropout.masks import Key, Site, Table


def uneven_repeats(table: Table) -> list[str]:
    """Notices of equal tensors that the sides drop a different number of times.

    Args:
        table: the dropouts of both shadows at one point.
    """
    groups: list[list[Site]] = []
    for site in table.reference.values():
        alike = (group for group in groups if equal(group[0], site))
        group = next(alike, None)
        if group is None:
            groups.append([site])
        else:
            group.append(site)
    found = []
    for group in groups:
        keys: set[Key] = {site.key for site in group}
        theirs = [s for s in table.port.values() if s.exact and s.source in keys]
        if theirs and len(theirs) != len(group):
            where = (
                f"at {group[0].place}" if group[0].place else f"of shape {group[0].value.shape}"
            )
            found.append(
                f"training: the reference drops one tensor ({where}) {times(len(group))}, the "
                f"port {times(len(theirs))}: each time with a mask of its own when it is trained, "
                f"with one mask here. Whether that is meant is not judged"
            )
    return found


def equal(one: Site, other: Site) -> bool:
    """Whether two dropouts of one side were given the same mask because of equal tensors."""
    return (
        one.uniform.shape == other.uniform.shape
        and one.value.shape == other.value.shape
        and one.value.tobytes() == other.value.tobytes()
        and bool(one.value.any())
    )


def times(count: int) -> str:
    """A number of times in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
