"""What an input looks like: sizes, dtype, axis order, kind of values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pytest_fwcompare.errors import UsageError

Kind = Literal["normal", "tokens", "mask", "positive", "grid", "probability", "ragged"]
KINDS = get_args(Kind)

NUMBERS = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
"""Dtypes that inputs and outputs may have."""


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of any framework: "float32" of `torch.float32`, `np.float32` and so on.

    Args:
        dtype: a name, or a framework's own object.
    """
    if isinstance(dtype, str):
        return dtype
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).rpartition(".")[2]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output tensor, in the reference's axis order.

    Attributes:
        shape: sizes; a string is a free size drawn anew for each example ("batch", "time"), the
            same for equal names.
        dtype: NumPy name, or the dtype itself of NumPy or a framework; integer dtypes make tokens,
            "bool" a mask.
        axes: one letter an axis in the reference, e.g. "NCHW".
        port_axes: the same letters in the port's order, e.g. "NHWC"; None: as in the reference.
        low: least value (included).
        high: greatest value (left out for integers: tokens are in [low, high)).
        kind: what the values are like; None explores scales and patterns for floats. "normal":
            standard normal times a scale; "positive": its absolute value; "grid": multiples of
            0.5, so zeros and ties occur; "probability": in [0, 1], rows sum to one; "tokens":
            integers; "mask": booleans with at least one True along the last axis; "ragged": True
            up to a length of at least one, then False.
        keyword: pass it by its name instead of by position.
        values: an array, or a Hypothesis strategy that draws arrays, to be used as it is (in the
            reference's axis order) instead of generated values.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    axes: str | None = None
    port_axes: str | None = None
    low: float | None = None
    high: float | None = None
    kind: Kind | None = None
    keyword: bool = False
    values: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)):
            raise UsageError(
                f"TensorSpec: shape is a tuple of sizes and names of free sizes, such as "
                f'("batch", 8), got {self.shape!r}'
            )
        object.__setattr__(self, "shape", tuple(self.shape))
        for size in self.shape:
            if not (isinstance(size, str) and size) and not (
                isinstance(size, int) and not isinstance(size, bool) and size >= 0
            ):
                raise UsageError(
                    f"TensorSpec: a size is an integer of at least 0 or the name of a free size, "
                    f"got {size!r} in shape {self.shape}"
                )
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        if self.dtype not in NUMBERS:
            raise UsageError(
                f"TensorSpec: unknown dtype {self.dtype!r}; the dtypes are {', '.join(NUMBERS)}"
            )
        if self.kind is not None and self.kind not in KINDS:
            raise UsageError(
                f"TensorSpec: unknown kind {self.kind!r}; the kinds are {', '.join(KINDS)}"
            )
        for word, letters in (("axes", self.axes), ("port_axes", self.port_axes)):
            if letters is None:
                continue
            if len(letters) != len(self.shape) or len(set(letters)) != len(letters):
                raise UsageError(
                    f"TensorSpec: {word}={letters!r} needs one letter of its own for each of the "
                    f"{len(self.shape)} axes of shape {self.shape}"
                )
        if self.port_axes is not None:
            if self.axes is None:
                raise UsageError(
                    f"TensorSpec: port_axes={self.port_axes!r} needs axes= beside it, the "
                    f"letters in the reference's order"
                )
            if sorted(self.axes) != sorted(self.port_axes):
                raise UsageError(
                    f"TensorSpec: axes={self.axes!r} and port_axes={self.port_axes!r} must have "
                    f"the same letters"
                )

    def __repr__(self) -> str:
        """As it is written: what was left out stays out."""
        rest = [
            f"{each.name}={value!r}"
            for each in fields(self)[1:]
            if (value := getattr(self, each.name)) is not each.default
            and not (each.name == "dtype" and value == "float32")
        ]
        return f"TensorSpec({', '.join([repr(self.shape), *rest])})"

    @property
    def to_port(self) -> tuple[int, ...] | None:
        """Permutation from the reference's axes to the port's; None where they are equal."""
        if self.axes is None or self.port_axes is None or self.axes == self.port_axes:
            return None
        return tuple(self.axes.index(letter) for letter in self.port_axes)
