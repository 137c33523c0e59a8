"""Dense layers, normalisation, functions and shapes, as Keras documents them."""

from __future__ import annotations

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.keras.documented.base import Undocumented, Use, activated, documents
from pytest_fwcompare.networks.base import Layer, Node
from pytest_fwcompare.weights.transforms import Reshape


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
