"""Convolutions, pooling, padding and resizing, as Keras documents them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.keras.documented.base import Undocumented, Use, activated, documents
from pytest_fwcompare.networks.base import Layer, Node
from pytest_fwcompare.weights.transforms import Reshape, Transpose


def _window(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kernel_size": tuple(config["kernel_size"]),
        "stride": tuple(config["strides"]),
        "dilation": tuple(config["dilation_rate"]),
        "padding": config["padding"],
        "use_bias": config["use_bias"],
    }


@documents("Conv1D", "Conv2D", "Conv3D")
def _conv(use: Use) -> Node:
    config = use.config
    kind = (fn.Conv1D, fn.Conv2D, fn.Conv3D)[len(config["kernel_size"]) - 1]
    made = kind(config["filters"], groups=config["groups"], name="conv", **_window(config))
    use.keep("conv", kernel="kernel", bias="bias")
    return activated(use.last(made, use.features_first), config["activation"])


@documents("DepthwiseConv2D")
def _depthwise(use: Use) -> Node:
    config = use.config
    made = fn.DepthwiseConv2D(
        multiplier=config["depth_multiplier"], name="conv", **_window(config)
    )
    use.keep("conv", kernel="kernel", bias="bias")
    return activated(use.last(made, use.features_first), config["activation"])


@documents("SeparableConv2D")
def _separable(use: Use) -> Node:
    config = use.config
    filters, multiplier = config["filters"], config["depth_multiplier"]
    made = fn.SeparableConv2D(filters, multiplier=multiplier, name="conv", **_window(config))
    wide = use.shapes[0][1 if use.features_first else -1] * multiplier
    use.keep(
        "conv",
        depthwise_kernel="depthwise_kernel",
        pointwise_kernel=("pointwise_kernel", Reshape((1, 1, wide, filters))),
        bias="bias",
    )
    return activated(use.last(made, use.features_first), config["activation"])


@documents("Conv1DTranspose", "Conv2DTranspose")
def _conv_transpose(use: Use) -> Node:
    config = use.config
    axes = len(config["kernel_size"])
    use.refuse(output_padding=None)
    if any(rate != 1 for rate in config["dilation_rate"]):
        raise Undocumented(f"dilation_rate={config['dilation_rate']!r}")
    # The documented size of "valid" is (n - 1) stride + kernel, and n stride at least.
    pairs = zip(config["strides"], config["kernel_size"], strict=True)
    extra = tuple(max(stride - kernel, 0) for stride, kernel in pairs)
    options = _window(config)
    if config["padding"] == "valid":
        options["output_padding"] = extra
    made = (fn.ConvTranspose1D, fn.ConvTranspose2D)[axes - 1](
        config["filters"], name="conv", **options
    )
    swap = Transpose((*range(axes), axes + 1, axes))
    use.keep("conv", kernel=("kernel", swap), bias="bias")
    return activated(use.last(made, use.features_first), config["activation"])


POOLS: dict[str, Any] = {
    "MaxPooling1D": fn.MaxPool1D,
    "MaxPooling2D": fn.MaxPool2D,
    "AveragePooling1D": fn.AveragePool1D,
    "AveragePooling2D": fn.AveragePool2D,
}


@documents(*POOLS)
def _pooling(use: Use) -> Node:
    config = use.config
    made = POOLS[use.kind](tuple(config["pool_size"]), tuple(config["strides"]), config["padding"])
    return use.last(made, use.features_first)


def _global(use: Use, made: Layer) -> Node:
    use.refuse(keepdims=False)
    (x,) = use.inputs
    if use.features_first:
        x = fn.Permute((*range(2, use.rank), 1))(x)
    return made(x)


@documents("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def _global_average(use: Use) -> Node:
    return _global(use, fn.GlobalAveragePool())


@documents("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def _global_max(use: Use) -> Node:
    return _global(use, fn.GlobalMaxPool())


@documents("UpSampling1D", "UpSampling2D")
def _upsampling(use: Use) -> Node:
    size = use.config["size"]
    factors = {size} if isinstance(size, int) else set(size)
    mode = use.config.get("interpolation", "nearest")
    if len(factors) > 1 or mode not in ("nearest", "bilinear"):
        raise Undocumented(f"size={size!r}, interpolation={mode!r}")
    return use.last(fn.Upsample(factors.pop(), mode), use.features_first)


@documents("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(use: Use) -> Node:
    given = use.config["padding"]
    pairs = (tuple(given),) if isinstance(given[0], int) else tuple(map(tuple, given))
    return use.last(fn.Pad(pairs), use.features_first)
