"""Configuration that differs between layers that belong together: hints where nothing is proved.

Frameworks have other words for the same option, other forms of its value and sometimes another
meaning. Options are compared only where both sides say something about them, and only in layers
whose values differ: a layer whose value the port has is no suspect, whatever its options say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_fwcompare.backends.base import Parameter, Recorded
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.tree import stretches

MOST = 6
"""Hints that are shown."""

WORDS: dict[str, tuple[str, ...]] = {
    "epsilon": ("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "layer_norm_epsilon"),
    "momentum": ("momentum",),
    "slope": ("negative_slope", "alpha", "slope"),
    "stride": ("stride", "strides", "window_strides"),
    "padding": ("padding",),
    "dilation": ("dilation", "dilation_rate", "dilations", "rhs_dilation", "kernel_dilation"),
    "window": ("kernel_size", "pool_size", "ksize", "window_shape", "window_dimensions"),
    "groups": ("groups", "num_groups", "feature_group_count"),
    "approximate": ("approximate",),
    "axis": ("axis", "dim"),
    "heads": ("num_heads", "heads", "n_heads", "num_attention_heads"),
    "ceil_mode": ("ceil_mode",),
    "count_include_pad": ("count_include_pad",),
    "align_corners": ("align_corners",),
    "half_pixel_centers": ("half_pixel_centers",),
    "interpolation": ("interpolation", "method", "mode"),
    "dropout rate": ("rate", "p"),
    "causal": ("is_causal", "causal", "use_causal_mask"),
    "padding index": ("padding_idx", "padding_index"),
    "reset_after": ("reset_after",),
    "activation": ("activation", "nonlinearity", "function", "hidden_act"),
    "recurrent_activation": ("recurrent_activation",),
}
"""What an option is called here, and everywhere else."""

SILENT = frozenset({"momentum", "dropout rate", "padding index"})
"""Options that no forward pass in inference shows."""

NEW_FIRST = frozenset({"torch", "numpy"})
"""Frameworks whose momentum of a batch norm weighs the new statistic; elsewhere the old one."""


@dataclass(frozen=True)
class Difference:
    """An option that two layers set differently, ready to be told.

    Attributes:
        option: its name here.
        expected, obtained: values as the layers say them.
        path, port_path: the layers.
    """

    option: str
    expected: str
    obtained: str
    path: str
    port_path: str


def hints(
    sides: Sides,
    found: Diagnosis,
    *,
    reference_layers: Sequence[Parameter],
    port_layers: Sequence[Parameter],
    mapped: Mapping[str, Sequence[str]],
    frameworks: tuple[str, str],
) -> tuple[str, ...]:
    """Sentences about options that differ, those of the culprit first.

    Args:
        sides: both recorded passes, aligned.
        found: the diagnosis.
        reference_layers: parameters of the reference with the options of their layers.
        port_layers: the same of the port.
        mapped: the reference's parameters that each parameter of the port is made from.
        frameworks: import names of the reference's and the port's.
    """
    differences: dict[Difference, None] = {}
    for diagnosis in (found, *found.others):
        differences.update(dict.fromkeys(_by_place(sides, diagnosis)))
    own = {parameter.name: parameter for parameter in reference_layers}
    agree = _agreeing(sides)
    seen = set()
    for parameter in port_layers:
        for name in mapped.get(parameter.name, ()):
            other = own.get(name)
            if other is None or (other.layer, parameter.layer) in seen:
                continue
            seen.add((other.layer, parameter.layer))
            differences.update(
                dict.fromkeys(_by_options(other, parameter, frameworks, other.layer in agree))
            )
    return _told(differences)


def facts(attributes: Mapping[str, Any], rank: int = 0) -> dict[str, tuple[Any, str]]:
    """Options in one form for all frameworks, each with the form that its layer uses.

    Args:
        attributes: of a layer or a call.
        rank: axes of its value, to count an axis from the front; 0 leaves axes out.
    """
    made: dict[str, tuple[Any, str]] = {}
    for option, names in WORDS.items():
        for name in names:
            if name not in attributes or (option == "axis" and not rank):
                continue
            value = _plain(option, attributes[name], attributes, rank)
            if value is not None:
                shown = attributes[name]
                made[option] = value, f"{shown!r}" if name == option else f"{shown!r} ({name})"
                break
    return made


def _plain(option: str, value: Any, attributes: Mapping[str, Any], rank: int) -> Any:
    """An option's value that can be compared; None where it says nothing."""
    if isinstance(value, list):
        value = tuple(value)
    if option in ("stride", "dilation", "window", "padding"):
        return _amounts(value, attributes)
    if option == "axis":
        given = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in given):
            return None
        return tuple(sorted(axis % rank for axis in given))
    if option == "approximate":
        return value in (True, "tanh")
    if option in ("activation", "recurrent_activation", "interpolation"):
        return value.lower() if isinstance(value, str) else None
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, (int, float)) else None


def _amounts(value: Any, attributes: Mapping[str, Any]) -> Any:
    """Amounts of each spatial axis; one number where all are equal; "same" as a word."""
    if isinstance(value, str):
        word = value.lower()
        if word == "explicit":
            return _amounts(_spatial(tuple(attributes.get("explicit_paddings", ()))), {})
        return 0 if word == "valid" else word
    if isinstance(value, bool) or not isinstance(value, (int, tuple)):
        return None
    if isinstance(value, tuple):
        if "data_format" in attributes and len(value) in (4, 5):
            first = str(attributes["data_format"]).startswith("NC")
            value = value[2:] if first else value[1:-1]
        # JAX gives a pooling its window over all axes, batch and features included.
        every = tuple(attributes.get("window_dimensions", ()))
        if len(value) == len(every) > 2:
            value = value[1:-1] if every[-1] == 1 else value[2:]
        if not value or not all(isinstance(amount, int) for amount in value):
            return None
        return value[0] if len(set(value)) == 1 else value
    return value


def _spatial(pads: tuple[int, ...]) -> tuple[int, ...]:
    """Paddings of the axes that have any, of a flat list over all axes."""
    return tuple(amount for amount in pads if amount)


def _differences(
    ours: Mapping[str, tuple[Any, str]],
    theirs: Mapping[str, tuple[Any, str]],
    path: str,
    port_path: str,
) -> Iterable[Difference]:
    for option in WORDS:
        if option not in ours or option not in theirs:
            continue
        (value, expected), (other, obtained) = ours[option], theirs[option]
        if value == other or (option == "padding" and _alike(ours, theirs)):
            continue
        yield Difference(option, expected, obtained, path, port_path)


def _alike(ours: Mapping[str, tuple[Any, str]], theirs: Mapping[str, tuple[Any, str]]) -> bool:
    """Whether "same" and an amount pad alike: half a window on every side, with stride 1."""
    values = {ours["padding"][0], theirs["padding"][0]}
    if "same" not in values or len(values) != 2:
        return False
    known: dict[str, tuple[Any, str]] = {"stride": (1, ""), "dilation": (1, ""), **theirs, **ours}
    if "window" not in known:
        return False
    window, stride, dilation = (known[key][0] for key in ("window", "stride", "dilation"))
    amount = next(value for value in values if value != "same")
    if not all(isinstance(value, int) for value in (window, stride, dilation, amount)):
        return False
    return bool(stride == 1 and 2 * amount == dilation * (window - 1))


def _by_place(sides: Sides, found: Diagnosis) -> list[Difference]:
    """Options of the calls at a culprit and at the port's place for it."""
    if found.culprit is None or found.port_culprit is None:
        return []
    ours = _records(sides.graph.records, found.culprit, found.operation)
    theirs = _records(sides.port.records, found.port_culprit, found.port_operation)
    aligned = {r.value.shape for r in ours} & {r.value.shape for r in theirs}
    return list(
        _differences(
            _merged(ours, bool(aligned)), _merged(theirs, bool(aligned)),
            found.culprit, found.port_culprit,
        )
    )  # fmt: skip


def _records(records: Sequence[Recorded], path: str, operation: str) -> list[Recorded]:
    """Calls of a layer; of a container's own code only the operation that is meant."""
    own = [record for record in records if record.path == path]
    exact = [record for record in own if record.operation == operation]
    inside = any(record.path.startswith((f"{path}.", f"{path}/")) for record in records)
    return exact if inside or not path else [*exact, *own]


def _merged(records: Sequence[Recorded], aligned: bool) -> dict[str, tuple[Any, str]]:
    """Options of several calls, the first that says one; none on which calls of a kind differ.

    A model that runs all its convolutions itself does not say which of them is meant.
    """
    made: dict[str, tuple[Any, str]] = {}
    told_by: dict[str, str] = {}
    unclear: set[str] = set()
    for record in records:
        for option, fact in facts(record.attributes, record.value.ndim if aligned else 0).items():
            if told_by.setdefault(option, record.operation) != record.operation:
                continue
            if made.setdefault(option, fact)[0] != fact[0]:
                unclear.add(option)
    return {option: fact for option, fact in made.items() if option not in unclear}


def _by_options(
    ours: Parameter, theirs: Parameter, frameworks: tuple[str, str], agree: bool
) -> list[Difference]:
    """Options of two layers that share a parameter."""
    both = [facts(parameter.options) for parameter in (ours, theirs)]
    for made, parameter, framework in zip(both, (ours, theirs), frameworks, strict=True):
        if "momentum" not in made:
            continue
        value, shown = made["momentum"]
        if "batch" not in parameter.kind.lower():
            del made["momentum"]
        elif framework not in NEW_FIRST:
            made["momentum"] = round(1 - value, 9), f"{shown} (weight of the old value)"
        else:
            made["momentum"] = round(value, 9), f"{shown} (weight of the new value)"
    found = _differences(both[0], both[1], ours.layer, theirs.layer)
    return [difference for difference in found if not agree or difference.option in SILENT]


def _agreeing(sides: Sides) -> frozenset[str]:
    """Modules whose last value the port has, in every call."""
    last = [(s.path, next(p for p in reversed(s.places) if sides.telling(p)))
            for s in stretches(sides)]  # fmt: skip
    wrong = {path for path, place in last if not sides.right[place]}
    return frozenset(path for path, _ in last) - wrong


def _told(differences: Iterable[Difference]) -> tuple[str, ...]:
    """A sentence for each option and pair of values, however many layers share it."""
    grouped: dict[tuple[str, str, str], dict[tuple[str, str], None]] = {}
    for one in differences:
        places = grouped.setdefault((one.option, one.expected, one.obtained), {})
        places[one.path, one.port_path] = None
    told = []
    for (option, expected, obtained), pairs in grouped.items():
        path, port_path = next(iter(pairs))
        more = f", and in {len(pairs) - 1} more pairs of layers" if len(pairs) > 1 else ""
        told.append(
            f"{option} is {expected} in {path or 'the root'} of the reference, {obtained} in "
            f"{port_path or 'the root'} of the port{more}"
        )
    rest = len(told) - MOST
    return (*told[:MOST], f"and {rest} more options differ") if rest > 0 else tuple(told)
