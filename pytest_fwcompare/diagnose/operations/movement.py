"""Operations that only move, copy or leave out elements, found by trying what gives the value.

Names and options of such calls differ between frameworks and are not needed: there are few ways to
get one shape from another, and the recorded value tells which it was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, normalised, rule

MOVES = (
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "ravel"),
    *("expand_dims", "transpose", "permute", "t", "mt", "movedim", "swapaxes", "swapdims"),
    *("moveaxis", "getitem", "chunk", "split", "tensor_split", "unbind", "narrow", "select"),
    *("slice", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "expand"),
    *("expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "flip", "roll"),
    *("pad", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("rev", "constant_pad_nd", "adaptive", "get", "h", "adjoint"),
)

PADS = ("pad", "constant_pad_nd", "padv2", "mirrorpad")
"""Moves that make new values."""


def _moves(record: Recorded) -> Iterator[Guess]:
    if record.operation and normalised(record.operation) in PADS:
        yield from _pads(record)
    yield from anything(record)


def anything(record: Recorded) -> Iterator[Guess]:
    """All ways that can give the value from the arguments, cheapest first."""
    value = record.value
    floats = list(record.arguments)
    if not floats:
        return
    if len(floats) == 3:
        yield from _entries(floats[0], floats[1:], value)
    if len(floats) > 1:
        yield from _joins(tuple(floats), value)
    # Where only one of the arguments is moved, it need not be the first.
    for first in floats[:3] if len(floats) <= 3 else floats[:1]:
        yield from _of_one(first, value)


def _of_one(first: Array, value: Array) -> Iterator[Guess]:
    """Ways in which a single tensor gives the value."""
    if first.size == value.size:
        yield (first,), {"move": "reshape", "shape": value.shape}
        if first.ndim == value.ndim <= 6:
            for axes in itertools.permutations(range(first.ndim)):
                if tuple(first.shape[axis] for axis in axes) == value.shape:
                    yield (first,), {"move": "transpose", "axes": axes}
        if first.shape == value.shape:
            yield from _turns(first)
    yield from _slices(first, value)
    if first.size <= value.size and first.ndim <= value.ndim:
        yield (first,), {"move": "broadcast", "shape": value.shape}
        yield from _tiles(first, value)
    yield from _gather(first, value)


def _entries(first: Array, places: Sequence[Array], value: Array) -> Iterator[Guess]:
    """x[..., rows, columns]: entries of matrices, listed."""
    whole = all(np.array_equal(a, np.round(a)) for a in places)
    if whole and first.ndim > 1 and all(a.shape == value.shape[-1:] for a in places):
        where = tuple(a.astype(np.int64) for a in places)
        yield (first,), {"move": "entries", "where": where}


def _joins(arguments: Arguments, value: Array) -> Iterator[Guess]:
    for axis in range(value.ndim):
        if len({a.ndim for a in arguments}) == 1 and arguments[0].ndim == value.ndim:
            yield arguments, {"move": "concatenate", "axis": axis}
        if all(a.shape == arguments[0].shape for a in arguments) and (
            arguments[0].ndim + 1 == value.ndim
        ):
            yield arguments, {"move": "stack", "axis": axis}


def _turns(first: Array) -> Iterator[Guess]:
    for count in range(1, min(first.ndim, 3) + 1):
        for axes in itertools.combinations(range(first.ndim), count):
            yield (first,), {"move": "flip", "axes": axes}
    for axis in range(first.ndim):
        for shift in range(1, min(first.shape[axis], 9)):
            yield (first,), {"move": "roll", "axis": axis, "shift": shift}
            yield (first,), {"move": "roll", "axis": axis, "shift": -shift}
    for axes in itertools.combinations(range(first.ndim), 2):
        for shift in range(1, min(*(first.shape[axis] for axis in axes), 9)):
            yield (first,), {"move": "roll", "axis": axes, "shift": (shift, shift)}
            yield (first,), {"move": "roll", "axis": axes, "shift": (-shift, -shift)}


def _tiles(first: Array, value: Array) -> Iterator[Guess]:
    padded = (1,) * (value.ndim - first.ndim) + first.shape
    if all(size and total % size == 0 for size, total in zip(padded, value.shape, strict=True)):
        repeats = tuple(total // size for size, total in zip(padded, value.shape, strict=True))
        yield (first,), {"move": "tile", "repeats": repeats}
        for axis, count in enumerate(repeats):
            if count > 1 and math.prod(repeats) == count:
                yield (first.reshape(padded),), {"move": "each", "axis": axis, "count": count}


def _slices(first: Array, value: Array) -> Iterator[Guess]:
    """One axis cut, or one index of it taken; the axis may be dropped."""
    for axis, size in enumerate(first.shape):
        rest = first.shape[:axis] + first.shape[axis + 1 :]
        if value.shape == rest and size:
            for start in range(size):
                yield (first,), {"move": "index", "axis": axis, "start": start}
        if value.ndim != first.ndim or value.shape[axis] > size or not value.size:
            continue
        if value.shape[:axis] + value.shape[axis + 1 :] != rest:
            continue
        length = value.shape[axis]
        for step in (1, 2, 3, -1):
            last = size - (length - 1) * abs(step)
            for start in range(max(last, 0)):
                begin = start if step > 0 else size - 1 - start
                yield (
                    (first,),
                    {"move": "slice", "axis": axis, "start": begin, "step": step, "count": length},
                )
    if value.ndim == first.ndim and value.size < first.size:
        # Several axes cut to their beginning, or every n-th place of them.
        yield (first,), {"move": "crop", "shape": value.shape}
        ratios = [round(a / b) if b else 1 for a, b in zip(first.shape, value.shape, strict=True)]
        yield (first,), {"move": "stride", "steps": tuple(ratios)}


def _gather(first: Array, value: Array) -> Iterator[Guess]:
    """Every element looked up by its value, if no value occurs twice."""
    flat = np.asarray(first, np.float64).reshape(-1)
    if not flat.size or not np.isfinite(flat).all():
        return
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    if (np.diff(ordered) == 0).any():
        return
    wanted = np.asarray(value, np.float64).reshape(-1)
    place = np.minimum(np.searchsorted(ordered, wanted), flat.size - 1)
    if np.array_equal(ordered[place], wanted):
        where = order[place].reshape(value.shape)
        yield (first,), {"move": "gather", "where": where, "shape": first.shape}


def _pads(record: Recorded) -> Iterator[Guess]:
    x, value = record.arguments[0], record.value
    amounts = record.attributes.get("pad", record.attributes.get("padding"))
    mode = str(record.attributes.get("mode", "constant")).lower()
    fill = record.attributes.get("value", 0.0) or 0.0
    if isinstance(amounts, (list, tuple)) and len(amounts) % 2 == 0:
        # torch lists the last axis first.
        widths = [(0, 0)] * (x.ndim - len(amounts) // 2)
        flat = list(amounts)
        widths += [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]
        yield (x,), {"move": "pad", "widths": tuple(widths), "mode": mode, "fill": fill}
    if x.ndim == value.ndim:
        extra = [b - a for a, b in zip(x.shape, value.shape, strict=True)]
        changed = [axis for axis, more in enumerate(extra) if more > 0]
        if min(extra) >= 0 and 0 < len(changed) <= 2 and max(extra) < 40:
            choices = [range(more + 1) if more else [0] for more in extra]
            for before in itertools.product(*choices):
                widths = [(b, more - b) for b, more in zip(before, extra, strict=True)]
                for mode in ("constant", "reflect", "replicate", "circular", "symmetric"):
                    options = {"move": "pad", "widths": tuple(widths), "mode": mode, "fill": 0.0}
                    yield (x,), options


PAD_MODES = {
    "constant": "constant",
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "edge": "edge",
    "circular": "wrap",
    "wrap": "wrap",
    "symmetric": "symmetric",
}
"""Names of padding rules in NumPy's words."""


def pad(x: Array, widths: Any, mode: str = "constant", fill: float = 0.0) -> Array:
    """Pads, or crops where an amount is negative."""
    crop = tuple(
        slice(max(-b, 0), s - max(-a, 0)) for (b, a), s in zip(widths, x.shape, strict=True)
    )
    grow = [(max(b, 0), max(a, 0)) for b, a in widths]
    cropped: Array = x[crop]
    if PAD_MODES[mode] == "constant":
        return np.asarray(np.pad(cropped, grow, constant_values=fill))
    made: Array = np.pad(cropped, grow, mode=PAD_MODES[mode])  # type: ignore[call-overload]
    return made


def _one(x: Array, options: Mapping[str, Any]) -> Array:
    """A move of a single tensor."""
    move = options["move"]
    made: Array
    if move == "reshape":
        return x.reshape(options["shape"])
    if move == "transpose":
        return x.transpose(options["axes"])
    if move == "reorder":
        # Axes split, moved, merged: x.reshape(split).transpose(axes).reshape(shape).
        made = x.reshape(options["split"]).transpose(options["axes"]).reshape(options["shape"])
        return made
    if move == "flip":
        return np.flip(x, options["axes"])
    if move == "roll":
        return np.roll(x, options["shift"], options["axis"])
    if move == "index":
        return np.asarray(np.take(x, options["start"], axis=options["axis"]))
    if move == "slice":
        places = options["start"] + options["step"] * np.arange(options["count"])
        return np.asarray(np.take(x, places, axis=options["axis"]))
    if move == "crop":
        made = x[tuple(slice(0, size) for size in options["shape"])]
        return made
    if move == "stride":
        made = x[tuple(slice(None, None, step) for step in options["steps"])]
        return made
    if move == "broadcast":
        return np.broadcast_to(x, options["shape"])
    if move == "tile":
        return np.tile(x, options["repeats"])
    if move == "each":
        return np.repeat(x, options["count"], axis=options["axis"])
    if move == "pad":
        return pad(x, options["widths"], options["mode"], options["fill"])
    if move == "entries":
        rows, columns = options["where"]
        if rows.max(initial=-1) >= x.shape[-2] or columns.max(initial=-1) >= x.shape[-1]:
            raise ValueError("entries of a larger matrix")
        return x[..., rows, columns]
    if move == "gather":
        if x.shape != options["shape"]:
            raise ValueError("gathered from another shape")
        made = x.reshape(-1)[options["where"]]
        return made
    raise KeyError(move)


def moved(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """The arguments after the move that options["move"] names."""
    if options["move"] == "concatenate":
        return np.concatenate(arguments, axis=options["axis"])
    if options["move"] == "stack":
        return np.stack(arguments, axis=options["axis"])
    return _one(arguments[0], options)


def _guess(record: Recorded) -> Iterator[Guess]:
    # Cheap refusal before the search: a move makes no new values.
    known = np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in record.arguments])
    value = np.asarray(record.value, np.float64).reshape(-1)
    if not np.isin(value, known).all() and normalised(record.operation) not in PADS:
        return
    for arguments, options in _moves(record):
        try:
            attempt = moved(arguments, options)
        except ValueError:  # shapes that this way cannot take
            continue
        if attempt.shape == record.value.shape and np.array_equal(
            attempt, record.value, equal_nan=True
        ):
            yield arguments, options
            return


rule("movement", *MOVES, guesses=_guess)(moved)
rule("movement", guesses=_guess)(moved)
