"""What Keras documents: layers of Keras, by their configuration, as described networks.

A described network is computed by the NumPy reference and by raw operations of TensorFlow, without
any code of Keras. The meaning of each option is that of https://keras.io/api/layers. Imports no
framework. What is not here has no formula to be held against, which is an answer, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks.base import Layer, Node
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.networks.layers import Recurrent
from pytest_fwcompare.weights.transforms import (
    Blocks,
    Each,
    Identity,
    Reshape,
    Stack,
    Transform,
    Transpose,
)

Stored = tuple[str, tuple[str, ...], Transform]
"""Attribute of the layer that holds a variable, the canonical parameters in it, and how."""


class Undocumented(Exception):
    """No formula is known here for such a layer, or for such a use of it."""


@dataclass(frozen=True)
class Documented:
    """The formula of a layer.

    Attributes:
        network: computes it; its inputs are "x0", "x1", ...
        stored: where its parameters are kept in the Keras layer.
    """

    network: Network
    stored: tuple[Stored, ...]


@dataclass
class Use:
    """One call of a layer, from which its formula is written.

    Attributes:
        kind: name of the Keras class.
        config: of the layer.
        inputs: nodes of its tensors, by position.
        shapes: their shapes, batch included.
        options: what else the call was given, by name.
        stored: filled with where parameters are kept.
    """

    kind: str
    config: Mapping[str, Any]
    inputs: list[Node]
    shapes: list[tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Axes of the first input, batch included."""
        return len(self.shapes[0])

    def keep(self, layer: str, **places: str | tuple[str, Transform]) -> None:
        """Say where parameters of a described layer are kept: {canonical name: attribute}."""
        for name, place in places.items():
            attribute, transform = (place, Identity()) if isinstance(place, str) else place
            self.stored.append((attribute, (f"{layer}.{name}",), transform))

    def refuse(self, **allowed: Any) -> None:
        """Refuse options that differ from the values for which there is a formula."""
        for option, value in allowed.items():
            if self.config.get(option, value) != value:
                raise Undocumented(f"{option}={self.config[option]!r}")

    def last(self, body: Callable[[Node], Node], first: bool) -> Node:
        """Apply to an input whose features come last, or are brought there and back."""
        (x,) = self.inputs
        if not first:
            return body(x)
        there = (*range(2, self.rank), 1)
        back = (self.rank - 1, *range(1, self.rank - 1))
        return fn.Permute(back)(body(fn.Permute(there)(x)))

    @property
    def features_first(self) -> bool:
        """Whether space comes after features."""
        return bool(self.config.get("data_format") == "channels_first")


Formula = Callable[[Use], Node]

FORMULAS: dict[str, Formula] = {}
"""By the name of the Keras class."""


def documents(*names: str) -> Callable[[Formula], Formula]:
    """Registers a formula for Keras classes."""

    def register(formula: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, formula))
        return formula

    return register


def documented(
    kind: str,
    config: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    options: Mapping[str, Any],
) -> Documented:
    """The formula of a call of a layer.

    Args:
        kind: name of the Keras class.
        config: `layer.get_config()`.
        shapes: of its tensors, batch included.
        dtypes: of the same.
        options: what else it was called with, None and False left out.

    Raises:
        Undocumented: with the reason.
    """
    if kind not in FORMULAS:
        raise Undocumented(f"no formula for {kind} is known here")
    if any(not shape for shape in shapes):
        raise Undocumented("an input without axes")
    inputs = [
        fn.Input(f"x{n}", shape[1:], dtype if dtype in ("bool", "int32", "int64") else "float32")
        for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    use = Use(kind, config, inputs, list(shapes), options)
    if kind != "MultiHeadAttention" and options:
        raise Undocumented(f"called with {', '.join(options)}")
    try:
        output = FORMULAS[kind](use)
        network = fn.Graph(inputs, output)
        known = network.parameters()
    except NetworkError as error:
        raise Undocumented(str(error)) from None
    stored = [s for s in use.stored if all(name in known for name in s[1])]
    return Documented(network, tuple(stored))


def activated(node: Node, name: Any, alpha: float | None = None) -> Node:
    """An activation by the name that Keras gives it; `keras.activations` has the formulas."""
    if not isinstance(name, str):
        raise Undocumented("an activation of one's own")
    name = {"swish": "silu", "hard_swish": "hard_silu"}.get(name, name)
    if name == "linear":
        return node
    if name == "softmax":
        return fn.Softmax()(node)
    if name == "log_softmax":
        return fn.LogSoftmax()(node)
    if name == "leaky_relu" and alpha is None:
        alpha = 0.2
    try:
        return fn.Activation(name, alpha)(node)
    except NetworkError as error:
        raise Undocumented(str(error)) from None


# Dense and lookups -----------------------------------------------------------------------------


@documents("Dense")
def _dense(use: Use) -> Node:
    config = use.config
    use.refuse(quantization_config=None)
    use.keep("dense", kernel="kernel", bias="bias")
    made = fn.Dense(config["units"], use_bias=config["use_bias"], name="dense")(*use.inputs)
    return activated(made, config["activation"])


@documents("Embedding")
def _embedding(use: Use) -> Node:
    config = use.config
    use.refuse(quantization_config=None)
    use.keep("embedding", table="embeddings")
    made = fn.Embedding(config["input_dim"], config["output_dim"], name="embedding")
    return made(*use.inputs)


# Space -----------------------------------------------------------------------------------------


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


# Normalisation ---------------------------------------------------------------------------------

AFFINE = {"scale": "gamma", "shift": "beta"}


def _axis_last(use: Use, layer: Layer) -> Node:
    """Apply to the one axis that is normalised, brought to the end and back."""
    axis = use.config["axis"]
    if isinstance(axis, (list, tuple)):
        if len(axis) != 1:
            raise Undocumented(f"axis={axis!r}")
        (axis,) = axis
    axis %= use.rank
    (x,) = use.inputs
    if axis in (0, use.rank - 1):
        if axis == 0:
            raise Undocumented("normalisation over the batch")
        return layer(x)
    order = [*(n for n in range(1, use.rank) if n != axis), axis]
    back = [order.index(n) + 1 for n in range(1, use.rank)]
    return fn.Permute(tuple(back))(layer(fn.Permute(tuple(order))(x)))


@documents("BatchNormalization")
def _batch_norm(use: Use) -> Node:
    config = use.config
    use.refuse(renorm=False)
    made = fn.BatchNorm(
        config["epsilon"], 1 - config["momentum"], config["scale"], config["center"], name="norm"
    )
    use.keep("norm", **AFFINE, mean="moving_mean", variance="moving_variance")
    return _axis_last(use, made)


@documents("LayerNormalization")
def _layer_norm(use: Use) -> Node:
    config = use.config
    use.refuse(rms_scaling=False)
    axis = config["axis"]
    axes = sorted(n % use.rank for n in axis) if isinstance(axis, (list, tuple)) else [axis]
    count = len(axes)
    use.keep("norm", **AFFINE)
    layer = fn.LayerNorm(config["epsilon"], count, config["scale"], config["center"], name="norm")
    if count == 1:
        return _axis_last(use, layer)
    if axes != list(range(use.rank - count, use.rank)):
        raise Undocumented(f"axis={axis!r}")
    return layer(*use.inputs)


@documents("GroupNormalization")
def _group_norm(use: Use) -> Node:
    config = use.config
    axis = config["axis"] % use.rank
    groups = config["groups"] if config["groups"] != -1 else use.shapes[0][axis]
    use.keep("norm", **AFFINE)
    layer = fn.GroupNorm(groups, config["epsilon"], config["scale"], config["center"], name="norm")
    return _axis_last(use, layer)


@documents("RMSNormalization")
def _rms_norm(use: Use) -> Node:
    use.keep("norm", scale="scale")
    return _axis_last(use, fn.RMSNorm(use.config["epsilon"], name="norm"))


# Sequences -------------------------------------------------------------------------------------


def _cell(kind: str, config: Mapping[str, Any]) -> Recurrent:
    """The described layer of a recurrent one."""
    use = Use(kind, config, [], [])
    use.refuse(stateful=False, return_state=False)
    if config["go_backwards"] and config["return_sequences"]:
        raise Undocumented("a sequence handed out backwards")
    shared = {
        "use_bias": config["use_bias"],
        "return_sequences": config["return_sequences"],
        "reverse": config["go_backwards"],
    }
    if kind == "SimpleRNN":
        return fn.SimpleRNN(config["units"], activation=config["activation"], **shared)
    use.refuse(activation="tanh", recurrent_activation="sigmoid")
    if kind == "LSTM":
        return fn.LSTM(config["units"], **shared)
    if kind == "GRU":
        return fn.GRU(
            config["units"], reset="after" if config["reset_after"] else "before", **shared
        )
    raise Undocumented(f"no formula for a recurrent layer {kind}")


def _cell_stored(cell: Recurrent, name: str, owner: str) -> list[Stored]:
    """Keras orders the gates of a GRU update, reset, new, and stacks its two biases."""
    order: Transform = Blocks((1, 0, 2)) if isinstance(cell, fn.GRU) else Identity()
    biases: tuple[str, ...] = (f"{name}bias",)
    bias = order
    if isinstance(cell, fn.GRU) and cell.reset == "after":
        biases, bias = (f"{name}bias", f"{name}recurrent_bias"), Each(order, Stack(0))
    return [
        (f"{owner}cell.kernel", (f"{name}kernel",), order),
        (f"{owner}cell.recurrent_kernel", (f"{name}recurrent_kernel",), order),
        (f"{owner}cell.bias", biases, bias),
    ]


@documents("SimpleRNN", "LSTM", "GRU")
def _recurrent(use: Use) -> Node:
    cell = replace(_cell(use.kind, use.config), name="cell")
    use.stored += _cell_stored(cell, "cell.", "")
    return cell(*use.inputs)


MERGES: dict[str, Literal["concatenate", "sum", "average", "multiply"]] = {
    "concat": "concatenate",
    "sum": "sum",
    "ave": "average",
    "mul": "multiply",
}


@documents("Bidirectional")
def _bidirectional(use: Use) -> Node:
    config = use.config
    if config["merge_mode"] not in MERGES:
        raise Undocumented(f"merge_mode={config['merge_mode']!r}")
    inner, other = config["layer"], config.get("backward_layer")
    cell = _cell(inner["class_name"], inner["config"])
    if other is not None:
        skipped = ("name", "go_backwards")
        left = {k: v for k, v in inner["config"].items() if k not in skipped}
        right = {k: v for k, v in other["config"].items() if k not in skipped}
        if left != right or other["class_name"] != inner["class_name"]:
            raise Undocumented("directions of different kinds")
    use.stored += _cell_stored(cell, "both.forward.", "forward_layer.")
    use.stored += _cell_stored(cell, "both.backward.", "backward_layer.")
    made = fn.Bidirectional(cell, merge=MERGES[config["merge_mode"]], name="both")
    return made(*use.inputs)


@documents("MultiHeadAttention")
def _attention(use: Use) -> Node:
    config = use.config
    use.refuse(use_gate=False, output_shape=None, sliding_window=None, value_dim=config["key_dim"])
    if tuple(config["attention_axes"] or (1,)) != (1,):
        raise Undocumented(f"attention_axes={config['attention_axes']!r}")
    causal = bool(use.options.get("use_causal_mask"))
    if left := set(use.options) - {"use_causal_mask"}:
        raise Undocumented(f"called with {', '.join(sorted(left))}")
    heads, size = config["num_heads"], config["key_dim"]
    layer = fn.MultiHeadAttention(heads, size, causal, config["use_bias"], name="attention")
    for part in ("query", "key", "value"):
        features = use.shapes[0 if part == "query" else -1][-1]
        use.keep(
            "attention",
            **{
                f"{part}_kernel": (f"{part}_dense.kernel", Reshape((features, heads, size))),
                f"{part}_bias": (f"{part}_dense.bias", Reshape((heads, size))),
            },
        )
    features = use.shapes[0][-1]
    use.keep(
        "attention",
        output_kernel=("output_dense.kernel", Reshape((heads, size, features))),
        output_bias="output_dense.bias",
    )
    return layer(*use.inputs)


# Functions and shapes --------------------------------------------------------------------------


@documents("Activation")
def _activation(use: Use) -> Node:
    return activated(use.inputs[0], use.config["activation"])


@documents("ReLU")
def _relu(use: Use) -> Node:
    config = use.config
    use.refuse(threshold=0.0)
    slope, most = config["negative_slope"], config["max_value"]
    if slope and most is None:
        return activated(use.inputs[0], "leaky_relu", alpha=slope)
    if slope or most not in (None, 6):
        raise Undocumented(f"max_value={most!r}, negative_slope={slope!r}")
    return activated(use.inputs[0], "relu" if most is None else "relu6")


@documents("LeakyReLU")
def _leaky_relu(use: Use) -> Node:
    return activated(use.inputs[0], "leaky_relu", alpha=use.config["negative_slope"])


@documents("ELU")
def _elu(use: Use) -> Node:
    return activated(use.inputs[0], "elu", alpha=use.config["alpha"])


@documents("PReLU")
def _prelu(use: Use) -> Node:
    space = list(range(1, use.rank - 1))
    if sorted(use.config["shared_axes"] or []) != space:
        raise Undocumented(f"shared_axes={use.config['shared_axes']!r}")
    features = use.shapes[0][-1]
    use.keep("prelu", slope=("alpha", Reshape((*(1,) * len(space), features))))
    return fn.PReLU(name="prelu")(*use.inputs)


@documents("Softmax")
def _softmax(use: Use) -> Node:
    return fn.Softmax(use.config["axis"])(*use.inputs)


@documents("Flatten")
def _flatten(use: Use) -> Node:
    if use.features_first and use.rank > 2:
        # Documented: features are brought last before, so that both formats flatten alike.
        return fn.Flatten()(fn.Permute((*range(2, use.rank), 1))(*use.inputs))
    return fn.Flatten()(*use.inputs)


@documents("Reshape")
def _reshape(use: Use) -> Node:
    return fn.Reshape(tuple(use.config["target_shape"]))(*use.inputs)


@documents("Permute")
def _permute(use: Use) -> Node:
    return fn.Permute(tuple(use.config["dims"]))(*use.inputs)


@documents("Add")
def _add(use: Use) -> Node:
    return fn.Add()(*use.inputs)


@documents("Multiply")
def _multiply(use: Use) -> Node:
    return fn.Multiply()(*use.inputs)


@documents("Concatenate")
def _concatenate(use: Use) -> Node:
    return fn.Concatenate(use.config["axis"])(*use.inputs)


@documents("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout")
def _dropout(use: Use) -> Node:
    """The identity in inference."""
    return fn.Dropout(0.0)(*use.inputs)
