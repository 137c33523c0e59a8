"""Several faults in a functional Keras model, whose layers nobody named and come mixed."""

from __future__ import annotations

import pytest

from pytest_fwcompare import TensorSpec, compare

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

STEPS = {"long": TensorSpec(("batch", 4, 6)), "short": TensorSpec(("batch", 4, 6))}
IMAGES = {
    "x": TensorSpec(("batch", 3, "height", "width"), axes="NCHW", port_axes="NHWC"),
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.up = nn.LayerNorm(8), nn.Linear(8, 8)
        self.norm2, self.down = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.down(F.gelu(self.norm2(self.up(self.norm1(x)))))


class Branches(nn.Module):
    """A long branch and a short one, of layers of one shape; two heads."""

    def __init__(self):
        super().__init__()
        self.into, self.beside = nn.Linear(6, 8), nn.Linear(6, 8)
        self.block, self.block2, self.last = Block(), Block(), nn.LayerNorm(8)
        self.short = Block()
        self.label, self.value = nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, long, short):
        both = self.last(self.block2(self.block(2.0 * self.into(long)))).amax(1)
        both = both + self.short(self.beside(short)).mean(1)
        return self.label(both).softmax(-1), F.leaky_relu(self.value(both), 0.1)


def branches():
    torch.manual_seed(0)
    return Branches().eval()


def keras_branches(*faults):
    """The same in Keras; each name that is given is a fault."""
    keras.utils.set_random_seed(0)
    layers, ops = keras.layers, keras.ops

    def norm(x, name):
        return layers.LayerNormalization(epsilon=1e-3 if name in faults else 1e-5)(x)

    def block(x, name):
        y = layers.Dense(8)(norm(x, f"{name}.norm1"))
        y = ops.gelu(norm(y, f"{name}.norm2"), approximate=f"{name} gelu" in faults)
        return x + layers.Dense(8)(y)

    long, short = keras.Input((4, 6)), keras.Input((4, 6))
    x = layers.Dense(8)(long) * (1.0 if "scale" in faults else 2.0)
    x = norm(block(block(x, "block"), "block2"), "last")
    x = ops.mean(x, 1) if "mean" in faults else ops.max(x, 1)
    x = x + ops.mean(block(layers.Dense(8)(short), "short"), 1)
    value = ops.leaky_relu(layers.Dense(3)(x), 0.3 if "slope" in faults else 0.1)
    return keras.Model([long, short], [ops.softmax(layers.Dense(5)(x)), value])


def places(comparison):
    """Culprit and cause of all differences, the first included."""
    return sorted((row.culprit, row.cause) for row in [comparison, *comparison.further])


def found(*faults):
    return compare(
        branches,
        lambda: keras_branches(*faults),
        inputs=STEPS,
        examples=5,
        checks=("forward",),
    )


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        (
            ["block.norm1", "short gelu"],
            [("block.norm1", "norm-epsilon"), ("short", "activation-variant")],
        ),
        (
            ["block gelu", "block2 gelu", "slope"],
            [
                ("", "activation-parameter"),
                ("block", "activation-variant"),
                ("block2", "activation-variant"),
            ],
        ),
        (["mean", "last"], [("", "reduction"), ("last", "norm-epsilon")]),
    ],
)
def test_every_fault_is_found_and_no_other(faults, wanted):
    assert places(found(*faults)) == sorted(wanted)


def test_a_fault_of_all_norms_is_their_block_s_and_shown_where_they_are():
    """What other blocks have as well is said of those, with evidence of their own."""
    comparison = found("block.norm1", "block.norm2", "short.norm2")
    assert places(comparison) == [("block", "norm-epsilon"), ("short.norm2", "norm-epsilon")]
    marked = [row.path for row in comparison.depth if row.status == "culprit"]
    assert marked == ["block.norm1", "block.norm2", "short.norm2"]
    assert "short" not in " ".join(comparison.evidence)


def test_a_fault_early_on_leaves_the_pairs_of_what_comes_behind_it():
    """No value tells then which layer is which; the order in which they were made does."""
    comparison = found("scale")
    pairs = {row.port: row.references for row in comparison.weights}
    stem = next(name for name in pairs if name.startswith("layer_normalization")).split("/")[0]
    first = int(stem.removeprefix("layer_normalization").lstrip("_") or 0)
    made = ["block.norm1", "block.norm2", "block2.norm1", "block2.norm2", "last"]
    for number, name in enumerate([*made, "short.norm1", "short.norm2"], first):
        path = f"layer_normalization_{number}" if number else "layer_normalization"
        assert pairs[f"{path}/gamma"] == (f"{name}.weight",)
    assert comparison.further == ()


class Pooled(nn.Module):
    """Convolutions around a pool that counts its padding."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.AvgPool2d(3, 2, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.pool(torch.tanh(self.stem(x)))
        y = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return torch.relu(x + y)


def keras_pooled():
    """The same, with the padding counted out in a division: the right mean is in it, too."""
    keras.utils.set_random_seed(0)
    layers, ops = keras.layers, keras.ops

    def pooled(x):
        return layers.AveragePooling2D(3, 2)(layers.ZeroPadding2D(1)(x))

    images = keras.Input((None, None, 3))
    x = ops.tanh(layers.Conv2D(6, 3, padding="same")(images))
    x = pooled(x) / pooled(ops.ones_like(x[..., :1]))
    y = layers.BatchNormalization(epsilon=1e-5)(layers.Conv2D(6, 3, padding="same")(x))
    y = layers.Conv2D(6, 3, padding="same")(ops.silu(y))
    y = layers.BatchNormalization(epsilon=1e-5)(y)
    return keras.Model(images, ops.relu(x + y))


def test_a_right_value_that_the_port_goes_on_to_change():
    def reference():
        torch.manual_seed(0)
        return Pooled().eval()

    comparison = compare(reference, keras_pooled, inputs=IMAGES, examples=5, checks=("forward",))
    assert places(comparison) == [("pool", "pool-count")]


@pytest.mark.parametrize(("slope", "wanted"), [(None, "dense"), (0.3, "dense_1")])
def test_layers_are_told_by_their_names_as_keras_numbers_them(slope, wanted):
    """TensorFlow numbers a scope that is opened again in the same way."""

    def reference():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, activation="gelu", name="dense"),
                layers.Dense(8, activation="leaky_relu", name="dense_1"),
                layers.Dense(8, activation="tanh", name="dense_2"),
            ],
            name="sequential",
        )

    class Port(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = F.gelu(self.a(x), approximate="none" if slope else "tanh")
            return torch.tanh(self.c(F.leaky_relu(self.b(x), slope or 0.2)))

    def port():
        torch.manual_seed(0)
        return Port().eval()

    comparison = compare(
        reference, port, inputs={"x": TensorSpec(("batch", 6))}, examples=4, checks=("forward",)
    )
    assert comparison.culprit == wanted
    assert comparison.further == ()
    assert [row.path for row in comparison.depth] == ["dense", "dense_1", "dense_2"]


def test_the_temperature_of_a_head_is_no_scale_of_attention():
    """The product before it is one with weights."""

    def reference():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(inputs))

    class Port(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return torch.softmax(self.head(x) / 2.0, -1)

    def port():
        torch.manual_seed(0)
        return Port().eval()

    comparison = compare(
        reference, port, inputs={"x": TensorSpec(("batch", 6))}, examples=4, checks=("forward",)
    )
    assert places(comparison) == [("head", "activation-parameter")]
