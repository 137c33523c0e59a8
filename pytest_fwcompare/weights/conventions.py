"""Layouts that frameworks document: from a layer's parameter to one canonical form.

The canonical form is torch's: linear (out, in); convolution (out, in / groups, *kernel);
transposed convolution (in, out / groups, *kernel); embedding (rows, dim); everything of one axis
without its singleton axes. A gate or a fused projection is one block along axis 0.

Sources: the reference pages of `torch.nn`, `keras.layers`, `flax.nnx`, `flax.linen` and
`equinox.nn`. Only what is documented for a layer's class counts as certain; for other classes the
same layout is a first guess, and the order of gates or channels inside an axis is never searched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.transforms import (
    Flip,
    Identity,
    Reshape,
    Transform,
    Transpose,
    compose,
    shape_of,
)
from pytest_fwcompare.weights.words import split

Atoms = tuple[frozenset[str], ...]

CERTAIN_KINDS = frozenset(
    """
    Linear LazyLinear NonDynamicallyQuantizableLinear Dense EinsumDense LinearGeneral DenseGeneral
    Conv Conv1d Conv2d Conv3d Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D
    SeparableConv1D SeparableConv2D ConvTranspose ConvTranspose1d ConvTranspose2d ConvTranspose3d
    Conv1DTranspose Conv2DTranspose Conv3DTranspose
    Embedding EmbeddingBag Embed ReversibleEmbedding
    LayerNorm LayerNormalization BatchNorm BatchNorm1d BatchNorm2d BatchNorm3d BatchNormalization
    GroupNorm GroupNormalization RMSNorm RMSNormalization InstanceNorm1d InstanceNorm2d
    InstanceNorm3d UnitNormalization TFConv1D MultiheadAttention PReLU
    """.split()  # noqa: SIM905
)
"""Class names whose layout the frameworks document."""

SCALE = {"gamma", "scale", "g", "gain"}
SHIFT = {"bias", "biases", "beta", "shift", "offset", "b"}
MEAN = {"mean"}
VARIANCE = {"variance", "var"}
KERNEL = {"weight", "weights", "kernel", "kernels", "filter", "filters", "w", "matrix"}


@dataclass(frozen=True)
class Slot:
    """One parameter as its layer's convention sees it.

    Attributes:
        parameter: as the side lists it.
        role: "kernel", "embedding", "bias", "scale", "mean", "variance", "slope" or "other".
        form: what the kernel is for: "linear", "convolution", "transposed", "embedding", "".
        steps: from the native to the canonical layout; a guess unless `certain`.
        shape: canonical shape.
        certain: the layout is documented for the class.
        atoms: labels of equal blocks along canonical axis 0, each a set of what was summed.
    """

    parameter: Parameter
    role: str
    form: str
    steps: Transform
    shape: tuple[int, ...]
    certain: bool
    atoms: Atoms = ()

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def native(self) -> tuple[int, ...]:
        return self.parameter.shape

    @cached_property
    def size(self) -> int:
        total = 1
        for length in self.native:
            total *= length
        return total


def slot(
    parameter: Parameter,
    role: str,
    form: str,
    *steps: Transform,
    certain: bool,
    atoms: Atoms = (),
) -> Slot:
    """A slot with its steps made short."""
    short = compose(parameter.shape, *steps)
    return Slot(parameter, role, form, short, shape_of(short, parameter.shape), certain, atoms)


def turned(given: Slot) -> Slot:
    """A matrix of undocumented layout the other way round; any other slot as it is."""
    if given.certain or len(given.native) != 2:
        return given
    steps = (Transpose((1, 0)),) if isinstance(given.steps, Identity) else ()
    return slot(given.parameter, given.role, given.form, *steps, certain=False)


def role_word(parameter: Parameter) -> str:
    """Last word of the name that says which parameter of its layer it is."""
    known = SCALE | SHIFT | MEAN | VARIANCE | KERNEL
    for word in reversed(split(parameter.role or parameter.name)):
        if word in known:
            return word
    return ""


def base_kind(parameter: Parameter) -> str:
    """The framework's class: `options["base"]` where a side gives one, else the class itself."""
    return str(parameter.options.get("base") or parameter.kind)


def is_certain(parameter: Parameter) -> bool:
    """Whether the layer's layout is documented."""
    return base_kind(parameter) in CERTAIN_KINDS


def channels_last(parameter: Parameter, framework: str) -> bool:
    """Whether kernels of this layer end in (in, out).

    `kernel` is what Keras and flax call theirs, `weight` what torch and equinox do; TensorFlow
    variables and plain JAX parameters follow their operations, which take (in, out).
    """
    word = role_word(parameter)
    if framework == "torch":
        return word == "kernel"
    return not (framework in ("jax", "") and word == "weight")


def describe(parameter: Parameter, siblings: Sequence[Parameter], framework: str) -> Slot:
    """The slot of one parameter of a layer that is not recurrent.

    Args:
        parameter: the parameter.
        siblings: all parameters of its layer.
        framework: import name of the side's framework.
    """
    kind, word = base_kind(parameter).lower(), role_word(parameter)
    certain, rank = is_certain(parameter), len(parameter.shape)
    is_norm = "norm" in kind and not re.search("conv|linear|dense", kind)
    if not certain and long_axes(parameter) == 0 and "norm" not in kind:
        return vector(parameter, "other", certain)
    if word in MEAN | VARIANCE and not parameter.trainable:
        return vector(parameter, "mean" if word in MEAN else "variance", certain)
    if word in SHIFT and (long_axes(parameter) < 2 or base_kind(parameter) in GENERAL_LINEAR):
        return vector(parameter, "bias", certain)
    if word in SCALE or (is_norm and word in KERNEL):
        return vector(parameter, "scale", certain)
    if "prelu" in kind or "slope" in split(parameter.role) or "alpha" in split(parameter.role):
        return vector(parameter, "slope", certain)
    if rank >= 2 and long_axes(parameter) == 2 and is_table(parameter, kind):
        squeezed = tuple(length for length in parameter.shape if length != 1)
        return slot(parameter, "embedding", "embedding", Reshape(squeezed), certain=certain)
    least = 1 if certain or word in KERNEL else 2
    if rank >= 2 and long_axes(parameter) >= least:
        return kernel(parameter, siblings, framework, kind, certain)
    role = "scale" if word in KERNEL and rank == 1 else "other"
    return vector(parameter, role, certain=False)


TABLE_WORDS = {"embedding", "embeddings", "embed", "embedder", "pos", "position", "positions",
               "table", "wte", "wpe", "tokens", "token", "lookup", "vocab"}  # fmt: skip


def is_table(parameter: Parameter, kind: str) -> bool:
    """Whether rows of the parameter are looked up or added, not multiplied."""
    if re.search(r"embed(ding|dings|der)?s?$", kind):
        return role_word(parameter) not in ("kernel",)
    return not is_certain(parameter) and bool(
        TABLE_WORDS & set(split(parameter.role or parameter.name))
    )


def long_axes(parameter: Parameter) -> int:
    """Number of axes longer than 1."""
    return sum(length != 1 for length in parameter.shape)


def vector(parameter: Parameter, role: str, certain: bool) -> Slot:
    """A parameter of one axis, its singleton axes dropped; those of several keep their order."""
    shape = tuple(length for length in parameter.shape if length != 1)
    if not shape:
        shape = (1,) * min(1, len(parameter.shape))
    if role == "bias" and base_kind(parameter) in GENERAL_LINEAR:
        total = 1
        for length in shape:
            total *= length
        shape = (total,)
    return slot(parameter, role, "", Reshape(shape), certain=certain)


GENERAL_LINEAR = ("EinsumDense", "LinearGeneral", "DenseGeneral")
"""Linear layers with several axes in or out, such as heads."""


def kernel(
    parameter: Parameter,
    siblings: Sequence[Parameter],
    framework: str,
    kind: str,
    certain: bool,
) -> Slot:
    """The slot of a parameter with two axes or more that multiplies its layer's input."""
    rank = len(parameter.shape)
    last = channels_last(parameter, framework)
    if base_kind(parameter) in GENERAL_LINEAR and rank != 2:
        return general_linear(parameter, siblings)
    if "depthwise" in kind or "depthwise" in split(parameter.role):
        return depthwise(parameter, certain, last)
    if re.search("transpose|deconv", kind) and rank >= 3:
        return transposed(parameter, framework, certain, last)
    if kind.endswith("conv1d") and rank == 2:
        # The linear layer of GPT-2 in Hugging Face's libraries: (in, out) in both frameworks.
        return slot(parameter, "kernel", "linear", Transpose((1, 0)), certain=True)
    form = "linear" if rank == 2 else "convolution"
    named = re.search(r"(conv([123]d)?|linear|dense)$", kind)
    certain = certain or bool(named and parameter.layer and rank >= 3)
    if not last:
        return slot(parameter, "kernel", form, certain=certain)
    axes = (rank - 1, rank - 2, *range(rank - 2))
    return slot(parameter, "kernel", form, Transpose(axes), certain=certain)


def general_linear(parameter: Parameter, siblings: Sequence[Parameter]) -> Slot:
    """A linear layer with several axes in or out: all axes in, then all axes out."""
    shape = parameter.shape
    letters = re.findall(r"[a-z]+", str(parameter.options.get("equation", "")).lower())
    if len(letters) == 3 and len(letters[1]) == len(shape):
        outgoing = [axis for axis, letter in enumerate(letters[1]) if letter in letters[2]]
    else:
        bias = next((p for p in siblings if role_word(p) in SHIFT), None)
        words = split(parameter.layer)
        count = 1 if {"out", "output"} & set(words) else len(shape) - 1
        count = len(bias.shape) if bias is not None else count
        outgoing = list(range(len(shape) - count, len(shape)))
    incoming = [axis for axis in range(len(shape)) if axis not in outgoing]
    rows, columns = 1, 1
    for axis in outgoing:
        rows *= shape[axis]
    for axis in incoming:
        columns *= shape[axis]
    steps = (Transpose((*outgoing, *incoming)), Reshape((rows, columns)))
    return slot(parameter, "kernel", "linear", *steps, certain=True)


def depthwise(parameter: Parameter, certain: bool, last: bool) -> Slot:
    """A depthwise kernel (*kernel, in, multiplier) as (in * multiplier, 1, *kernel)."""
    shape = parameter.shape
    if not last:
        return slot(parameter, "kernel", "convolution", certain=certain)
    rank = len(shape)
    steps = (
        Transpose((rank - 2, rank - 1, *range(rank - 2))),
        Reshape((shape[-2] * shape[-1], 1, *shape[:-2])),
    )
    return slot(parameter, "kernel", "convolution", *steps, certain=certain)


def transposed(parameter: Parameter, framework: str, certain: bool, last: bool) -> Slot:
    """A transposed-convolution kernel as torch's (in, out / groups, *kernel)."""
    shape = parameter.shape
    rank = len(shape)
    spatial = tuple(range(rank - 2))
    if framework == "jax" and last and not parameter.options.get("transpose_kernel", False):
        # flax keeps (*kernel, in, out) and correlates: torch's kernel turned round.
        steps: tuple[Transform, ...] = (
            Transpose((rank - 2, rank - 1, *spatial)),
            Flip(tuple(range(2, rank))),
        )
    elif framework == "jax" and not last:
        # equinox keeps (out, in / groups, *kernel) and correlates.
        groups = int(parameter.options.get("groups", 1))
        out, inner = shape[0] // groups, shape[1]
        kernel_axes = tuple(range(3, rank + 1))
        steps = (
            Reshape((groups, out, inner, *shape[2:])),
            Transpose((0, 2, 1, *kernel_axes)),
            Reshape((groups * inner, out, *shape[2:])),
            Flip(tuple(range(2, rank))),
        )
    elif last:
        steps = (Transpose((rank - 1, rank - 2, *spatial)),)
    else:
        steps = ()
    return slot(parameter, "kernel", "transposed", *steps, certain=certain)
