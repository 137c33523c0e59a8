"""Keras layers for what Keras lacks or means otherwise, composed of `keras.ops`.

All are registered under "pytest_fwcompare", so a saved model loads once this module is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

registered = keras.saving.register_keras_serializable(package="pytest_fwcompare")

Pairs = Sequence[Sequence[int]]


def at(axis: int, *part: Any) -> tuple[Any, ...]:
    """Index that cuts a slice out of one axis."""
    return (*(slice(None),) * axis, slice(*part))


class Configured(keras.layers.Layer):  # type: ignore[misc]
    """A layer whose configuration is the keyword arguments it was made with."""

    def __init__(self, *, options: dict[str, Any], **common: Any) -> None:
        super().__init__(**common)
        self.options = options

    def get_config(self) -> dict[str, Any]:
        """What the layer was made with."""
        return {**super().get_config(), **self.options}


@registered
class Padding(Configured):
    """Cells before and after each spatial axis: "zero", "lowest", "reflect" or "replicate"."""

    def __init__(self, amounts: Pairs, mode: str = "zero", **common: Any) -> None:
        super().__init__(options={"amounts": amounts, "mode": mode}, **common)
        self.amounts, self.mode = amounts, mode

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Known without a trial on symbols, which JAX refuses to reflect."""
        batch, *space, features = input_shape
        sizes = [
            None if size is None else size + before + after
            for size, (before, after) in zip(space, self.amounts, strict=True)
        ]
        return (batch, *sizes, features)

    def call(self, x: Any) -> Any:
        """Pad."""
        widths = ((0, 0), *((before, after) for before, after in self.amounts), (0, 0))
        if self.mode == "reflect":
            return ops.pad(x, widths, mode="reflect")
        if self.mode != "replicate":
            lowest = float("-inf") if self.mode == "lowest" else 0.0
            return ops.pad(x, widths, constant_values=ops.cast(lowest, x.dtype))
        for axis, (before, after) in enumerate(self.amounts, 1):
            if before or after:
                last = ops.shape(x)[axis] - 1
                cells = ops.clip(ops.arange(-before, last + after + 1), 0, last)
                x = ops.take(x, cells, axis=axis)
        return x


@registered
class Subsample(Configured):
    """Every stride-th window of a convolution made with stride 1.

    With `same` the windows of a strided convolution begin elsewhere than those of stride 1, by a
    number of cells that depends on the size.
    """

    def __init__(
        self, stride: Sequence[int], span: Sequence[int], same: bool, **common: Any
    ) -> None:
        super().__init__(options={"stride": stride, "span": span, "same": same}, **common)
        self.stride, self.span, self.same = stride, span, same

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Known without a trial on symbols, which JAX refuses to slice by."""
        batch, *space, features = input_shape
        sizes = [
            None if size is None else -(-(size - self._first(size, step, cells)) // step)
            for size, step, cells in zip(space, self.stride, self.span, strict=True)
        ]
        return (batch, *sizes, features)

    def _first(self, size: Any, step: int, cells: int) -> Any:
        """Where the first window begins on an axis of a size."""
        if not self.same:
            return 0
        missing = (-(-size // step) - 1) * step + cells - size
        total = max(missing, 0) if isinstance(missing, int) else ops.maximum(missing, 0)
        return (cells - 1) // 2 - total // 2

    def call(self, x: Any) -> Any:
        """Cut out."""
        for axis, (step, cells) in enumerate(zip(self.stride, self.span, strict=True), 1):
            x = x[at(axis, self._first(ops.shape(x)[axis], step, cells), None, step)]
        return x


class Grouped:
    """Mixed into a convolution: one convolution a group.

    Keras compiles grouped convolutions with XLA on a CPU, anew at every eager call.
    """

    groups: int

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve the groups one by one."""
        own: Any = super()
        parts = zip(
            ops.split(inputs, self.groups, axis=-1),
            ops.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        return ops.concatenate([own.convolution_op(a, b) for a, b in parts], axis=-1)


@registered
class GroupedConv1D(Grouped, keras.layers.Conv1D):  # type: ignore[misc]
    """See `Grouped`. Not for padding "causal"."""

    def call(self, inputs: Any) -> Any:
        """As in 2D: `Conv1D.call` passes `convolution_op` by."""
        return super(keras.layers.Conv1D, self).call(inputs)


@registered
class GroupedConv2D(Grouped, keras.layers.Conv2D):  # type: ignore[misc]
    """See `Grouped`."""


@registered
class GroupedConv3D(Grouped, keras.layers.Conv3D):  # type: ignore[misc]
    """See `Grouped`."""


@registered
class ComposedConvTranspose(Configured):
    """A transposed convolution as a convolution of the input with zeros between its cells.

    For dilation and for cells beyond the last window, which Keras' layers lack. kernel
    (*kernel_size, filters, in), as theirs.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        dilation_rate: Sequence[int],
        crops: Pairs,
        use_bias: bool = True,
        **common: Any,
    ) -> None:
        options = {
            "filters": filters,
            "kernel_size": kernel_size,
            "strides": strides,
            "dilation_rate": dilation_rate,
            "crops": crops,
            "use_bias": use_bias,
        }
        super().__init__(options=options, **common)
        self.filters, self.kernel_size, self.strides = filters, tuple(kernel_size), strides
        self.dilation_rate, self.crops, self.use_bias = dilation_rate, crops, use_bias

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        shape = (*self.kernel_size, self.filters, input_shape[-1])
        self.kernel = self.add_weight(shape=shape, name="kernel", initializer="glorot_uniform")
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), name="bias", initializer="zeros")

    def call(self, x: Any) -> Any:
        """Spread, convolve with the flipped kernel, cut."""
        space = range(1, len(x.shape) - 1)
        for axis, step in zip(space, self.strides, strict=True):
            x = _spread(x, axis, step)
        rank = len(self.kernel_size)
        kernel = ops.flip(self.kernel, axis=tuple(range(rank)))
        kernel = ops.swapaxes(kernel, rank, rank + 1)
        widths, cuts = [], []
        for size, rate, (before, after) in zip(
            self.kernel_size, self.dilation_rate, self.crops, strict=True
        ):
            reach = rate * (size - 1)
            # What is cropped off in the end need not be computed, where it lies in the margin.
            widths.append((max(reach - before, 0), max(reach - after, 0)))
            cuts.append((max(before - reach, 0), max(after - reach, 0)))
        x = ops.pad(x, ((0, 0), *widths, (0, 0)))
        y = ops.conv(
            x, kernel, 1, "valid", "channels_last", dilation_rate=tuple(self.dilation_rate)
        )
        for axis, (before, after) in zip(space, cuts, strict=True):
            y = y[at(axis, before, -after or None)]
        return y if self.bias is None else y + self.bias


def _spread(x: Any, axis: int, step: int) -> Any:
    """`step` - 1 zeros between neighbouring cells of an axis."""
    if step == 1:
        return x
    shape = list(ops.shape(x))
    widths = [(0, 0)] * (len(shape) + 1)
    widths[axis + 1] = (0, step - 1)
    wide = ops.pad(ops.expand_dims(x, axis + 1), widths)
    wide = ops.reshape(wide, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))
    return wide[at(axis, None, 1 - step)]


@registered
class CountingAveragePooling(Configured):
    """Average pooling with a choice of padding and of what the sum is divided by.

    Keras pads as "same" only, and divides by the cells inside the input then.
    """

    def __init__(
        self,
        pool_size: Sequence[int],
        strides: Sequence[int],
        padding: str | Pairs,
        count_include_pad: bool,
        **common: Any,
    ) -> None:
        options = {
            "pool_size": pool_size,
            "strides": strides,
            "padding": padding,
            "count_include_pad": count_include_pad,
        }
        super().__init__(options=options, **common)
        self.pool_size, self.strides = tuple(pool_size), tuple(strides)
        self.padding, self.count_include_pad = padding, count_include_pad

    def call(self, x: Any) -> Any:
        """Pool, then multiply or divide by the share of each window inside the input."""
        if self.padding == "same" and keras.backend.backend() == "torch":
            y = self._pool(ops.pad(x, ((0, 0), *self._pads(x), (0, 0))), "valid")
            return y if self.count_include_pad else y / self._share(x, y)
        if self.padding == "same":
            y = self._pool(x, "same")
            return y * self._share(x, y) if self.count_include_pad else y
        y = self._pool(ops.pad(x, ((0, 0), *map(tuple, self.padding), (0, 0))), "valid")
        return y if self.count_include_pad else y / self._share(x, y)

    def _pool(self, x: Any, padding: str) -> Any:
        return ops.average_pool(x, self.pool_size, self.strides, padding, "channels_last")

    def _pads(self, x: Any) -> list[tuple[int, int]]:
        """Cells before and after each axis, of "same"; sizes are numbers on torch.

        Keras on torch fills them with copies of the border, which count in its average.
        """
        made = []
        for size, cells, step in zip(
            ops.shape(x)[1:-1], self.pool_size, self.strides, strict=True
        ):
            missing = max((-(-size // step) - 1) * step + cells - size, 0)
            made.append((missing // 2, missing - missing // 2))
        return made

    def _share(self, x: Any, y: Any) -> Any:
        """(*out, 1): cells of a window inside the input over all its cells."""
        share: Any = 1.0
        rank = len(self.pool_size)
        for axis, (cells, step) in enumerate(zip(self.pool_size, self.strides, strict=True), 1):
            size, count = ops.shape(x)[axis], ops.shape(y)[axis]
            if self.padding == "same":
                missing = (count - 1) * step + cells - size
                before = ops.maximum(missing, 0) // 2
            else:
                before = self.padding[axis - 1][0]
            first = ops.arange(count) * step - before
            inside = ops.minimum(first + cells, size) - ops.maximum(first, 0)
            part = ops.cast(inside, x.dtype) / cells
            share = share * ops.reshape(part, (-1, *(1,) * (rank - axis + 1)))
        return share


@registered
class LinearUpSampling(Configured):
    """Linear interpolation on each spatial axis.

    Keras' bilinear `UpSampling2D` resizes images, in float32 on TensorFlow, and has no aligned
    corners.
    """

    def __init__(self, factor: int, align_corners: bool = False, **common: Any) -> None:
        super().__init__(options={"factor": factor, "align_corners": align_corners}, **common)
        self.factor, self.align_corners = factor, align_corners

    def call(self, x: Any) -> Any:
        """Interpolate."""
        for axis in range(1, len(x.shape) - 1):
            x = self._along(x, axis)
        return x

    def _along(self, x: Any, axis: int) -> Any:
        size = ops.shape(x)[axis]
        cells = ops.cast(ops.arange(size * self.factor), "float64")
        last = ops.cast(size - 1, "float64")
        if self.align_corners:
            place = cells * last / ops.maximum(ops.cast(size * self.factor - 1, "float64"), 1.0)
        else:
            place = ops.clip((cells + 0.5) / self.factor - 0.5, 0.0, last)
        below = ops.floor(place)
        weight = ops.cast(place - below, x.dtype)
        weight = ops.reshape(weight, (-1, *(1,) * (len(x.shape) - axis - 1)))
        low = ops.take(x, ops.cast(below, "int32"), axis=axis)
        high = ops.take(x, ops.cast(ops.minimum(below + 1, last), "int32"), axis=axis)
        return low * (1 - weight) + high * weight


@registered
class SpaceReduction(Configured):
    """Mean or maximum over all axes between batch and features."""

    def __init__(self, reduction: str, **common: Any) -> None:
        super().__init__(options={"reduction": reduction}, **common)
        self.reduction = reduction

    def call(self, x: Any) -> Any:
        """Reduce."""
        axes = tuple(range(1, len(x.shape) - 1))
        return {"mean": ops.mean, "max": ops.max}[self.reduction](x, axis=axes)


@registered
class WindowMean(Configured):
    """Mean over equal windows, `windows` of them on each spatial axis."""

    def __init__(self, windows: Sequence[int], **common: Any) -> None:
        super().__init__(options={"windows": windows}, **common)
        self.windows = tuple(windows)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Known where the size of the input is not."""
        return (input_shape[0], *self.windows, input_shape[-1])

    def call(self, x: Any) -> Any:
        """Split each axis, average."""
        batch, *space, features = ops.shape(x)
        shape = [batch]
        for size, count in zip(space, self.windows, strict=True):
            shape += [count, size // count]
        inner = tuple(2 * axis for axis in range(1, len(space) + 1))
        return ops.mean(ops.reshape(x, (*shape, features)), axis=inner)
