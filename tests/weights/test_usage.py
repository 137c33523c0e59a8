"""Trees whose names and order mean nothing are paired by what a forward pass does with them."""

from __future__ import annotations

import random
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Parameter, Recorded
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights.usage import by_use, siblings_of, uses_of

torch = pytest.importorskip("torch")
nn = torch.nn


def record(index: int, operation: str, inputs=(), parameters=(), is_module=False) -> Recorded:
    return Recorded(
        index, "", operation, np.zeros(1), tuple(inputs), tuple(parameters), is_module=is_module
    )


def parameter(name: str, *shape: int) -> Parameter:
    return Parameter(name, shape, "float32", True, kind="Flat", role=name)


def test_a_moved_weight_counts_where_it_meets_data():
    uses = uses_of(
        [
            record(0, "input"),
            record(1, "T", (), ["late"]),
            record(2, "T", (), ["soon"]),
            record(3, "MatMul", (0, 2)),
            record(4, "Layer", (3,), is_module=True),
            record(5, "matmul", (3, 1)),
        ]
    )
    assert [(use.operation, use.names, use.data) for use in uses] == [
        ("matmul", ("soon",), (0,)),
        ("matmul", ("late",), (3,)),
    ]


def test_what_is_used_together_is_one_layer():
    parameters = [
        parameter(n, *s) for n, s in {"a": (3,), "b": (3,), "c": (4, 3), "d": (3,)}.items()
    ]
    found = by_use(
        parameters,
        [
            record(0, "input"),
            record(1, "dot_general", (0,), ["c"]),
            record(2, "add", (1,), ["b"]),
            record(3, "tanh", (2,)),
            record(4, "mul", (3,), ["d"]),
        ],
    )
    assert [(p.name, p.layer, p.role) for p in found] == [
        ("c", "c + b", "matrix"),
        ("b", "c + b", "bias"),
        ("d", "d", "scale"),
        ("a", "", "a"),
    ]


def test_matrices_of_one_tensor_are_siblings():
    parameters = [parameter(n, 4, 4) for n in "qkvo"]
    records = [record(0, "input"), *(record(i, "dot", (0,), [n]) for i, n in enumerate("qkv", 1))]
    records.append(record(4, "dot", (3,), ["o"]))
    assert siblings_of(parameters, records) == (("q", "k", "v"),)


# Random trees ----------------------------------------------------------------------------------

SIZES = (3, 4, 4, 5)


class Described:
    """A small network as plain data: (kind, sizes) for each layer."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kind = self.random.choice(["rows", "images", "words"])
        self.width = width = 4 if self.kind == "words" else self.random.choice(SIZES)
        self.layers: list[tuple[Any, ...]] = []
        for _ in range(self.random.randint(1, 3)):
            if self.kind == "words":
                self.layers.append(("attention", self.random.choice([1, 2])))
            else:
                out = self.random.choice(SIZES)
                self.layers.append((self.kind, width, out, self.random.random() < 0.8))
                width = out
            if self.random.random() < 0.5:
                self.layers.append(("norm", width))
            self.layers.append(("tanh",))
        self.out = width

    def parameters(self) -> list[tuple[tuple[int, str], tuple[int, ...]]]:
        """Keys (layer, letter) with torch's shapes."""
        found: list[Any] = []
        for i, (kind, *facts) in enumerate(self.layers):
            if kind in ("rows", "images"):
                kernel = (3, 3) if kind == "images" else ()
                found.append(((i, "w"), (facts[1], facts[0], *kernel)))
                found += [((i, "b"), (facts[1],))] if facts[2] else []
            elif kind == "norm":
                found += [((i, "g"), (facts[0],)), ((i, "s"), (facts[0],))]
            elif kind == "attention":
                for one in "qkvo":
                    found += [((i, one), (4, 4)), ((i, one + "b"), (4,))]
        return found

    def names(self) -> list[str]:
        """Meaningless and distinct."""
        count = len(self.parameters())
        letters = self.random.sample(string.ascii_lowercase, 26)
        return [f"{a}{b}x" for a in letters for b in letters][: 7 * count : 7]

    def specs(self, last: bool) -> dict[str, Any]:
        """Inputs and outputs of `compare`."""
        if self.kind != "images":
            shape = (2, 3, 4) if self.kind == "words" else (3, self.width)
            return {"inputs": {"x": fwc.TensorSpec(shape)}}
        axes = {"axes": "NCHW", "port_axes": "NHWC"} if last else {}
        return {
            "inputs": {"x": fwc.TensorSpec((2, self.width, 5, 6), **axes)},
            "outputs": {"output": fwc.TensorSpec((2, self.out, 5, 6), **axes)},
        }


class Reference(nn.Module):
    """Ordinary layers with ordinary names."""

    def __init__(self, net: Described) -> None:
        super().__init__()
        self.net, self.layers = net, nn.ModuleList()
        for kind, *facts in net.layers:
            if kind == "rows":
                self.layers.append(nn.Linear(*facts))
            elif kind == "images":
                made = nn.Conv2d(*facts[:2], 3, padding=1, bias=facts[2])
                self.layers.append(made)
            elif kind == "norm":
                images = net.kind == "images"
                self.layers.append(nn.GroupNorm(1, *facts) if images else nn.LayerNorm(*facts))
            elif kind == "attention":
                self.layers.append(nn.ModuleDict({one: nn.Linear(4, 4) for one in "qkvo"}))
            else:
                self.layers.append(nn.Tanh())

    def forward(self, x):
        for (kind, *facts), layer in zip(self.net.layers, self.layers, strict=True):
            if kind == "attention":
                cut = (*x.shape[:2], facts[0], 4 // facts[0])
                q, k, v = (layer[one](x).reshape(cut).transpose(1, 2) for one in "qkv")
                made = nn.functional.scaled_dot_product_attention(q, k, v)
                x = x + layer["o"](made.transpose(1, 2).reshape(x.shape))
            else:
                x = layer(x)
        return x


def run(net: Described, held: dict[Any, Any], x: Any, library: Any, order: str) -> Any:
    """The same by formulas, of torch or of JAX (channels last, kernels as JAX takes them)."""
    last = library is not torch

    def linear(key: Any, bias: Any, x: Any) -> Any:
        made = x @ (held[key] if last else held[key].T)
        return made + held[bias] if bias in held else made

    for i, (kind, *facts) in enumerate(net.layers):
        if kind == "tanh":
            x = library.tanh(x)
        elif kind == "rows":
            x = linear((i, "w"), (i, "b"), x)
        elif kind == "images":
            x = convolved(held[i, "w"], x, last)
            if (i, "b") in held:
                x = x + (held[i, "b"] if last else held[i, "b"][:, None, None])
        elif kind == "norm":
            axes = (-1,) if net.kind != "images" else (1, 2, 3)
            mean = x.mean(axes, keepdims=True)
            spread = ((x - mean) ** 2).mean(axes, keepdims=True)
            shape = (-1, 1, 1) if net.kind == "images" and not last else (-1,)
            scale, shift = (held[i, one].reshape(shape) for one in "gs")
            x = (x - mean) / library.sqrt(spread + 1e-5) * scale + shift
        else:
            cut = (*x.shape[:2], facts[0], 4 // facts[0])
            made = {one: linear((i, one), (i, one + "b"), x).reshape(cut) for one in order}
            q, k, v = (made[one].swapaxes(1, 2) for one in "qkv")
            scores = q @ k.swapaxes(-1, -2) / (4 // facts[0]) ** 0.5
            # Scores of inputs in the thousands overflow without their largest.
            scores = library.exp(scores - library.amax(scores, -1)[..., None])
            mixed = (scores / scores.sum(-1)[..., None]) @ v
            x = x + linear((i, "o"), (i, "ob"), mixed.swapaxes(1, 2).reshape(x.shape))
    return x


def convolved(kernel: Any, x: Any, last: bool) -> Any:
    if not last:
        return nn.functional.conv2d(x, kernel, padding=1)
    import jax

    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)


def torch_port(net: Described, order: str, fault: float = 1.0) -> Any:
    pairs = list(zip(net.parameters(), net.names(), strict=True))

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            for (_, shape), name in net.random.sample(pairs, len(pairs)):
                setattr(self, name, nn.Parameter(torch.randn(shape)))

        def forward(self, x):
            held = {key: getattr(self, name) for (key, _), name in pairs}
            return fault * run(net, held, x, torch, order)

    return Flat()


def jax_port(net: Described, order: str) -> Any:
    import jax.numpy as jnp

    pairs = list(zip(net.parameters(), net.names(), strict=True))
    rng = np.random.default_rng(0)

    def native(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[2:], *shape[1::-1]) if len(shape) > 1 else shape

    def function(tree: Any, x: Any) -> Any:
        return run(net, {key: tree[name] for (key, _), name in pairs}, x, jnp, order)

    drawn = {name: rng.standard_normal(native(shape)) for (_, shape), name in pairs}
    return function, {name: jnp.asarray(value, jnp.float32) for name, value in drawn.items()}


def judged(net: Described, port: Any, last: bool = False) -> str:
    """The verdict, or "MappingError": anything but another function."""
    try:
        found = fwc.compare(Reference(net), port, examples=4, explain=False, **net.specs(last))
    except MappingError:
        return "MappingError"
    return found.verdict


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations("qkv"))
def test_a_right_port_in_torch_is_never_called_another_function(seed, order):
    torch.manual_seed(seed)
    net = Described(seed)
    assert judged(net, torch_port(net, "".join(order))) in ("equivalent", "MappingError")


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations("qkv"))
def test_a_right_port_in_jax_is_never_called_another_function(seed, order):
    pytest.importorskip("jax")
    torch.manual_seed(seed)
    net = Described(seed)
    assert judged(net, jax_port(net, "".join(order)), last=True) in ("equivalent", "MappingError")


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_wrong_port_never_passes(seed):
    torch.manual_seed(seed)
    net = Described(seed)
    assert judged(net, torch_port(net, "qkv", fault=1.001)) in ("semantic", "MappingError")


def test_most_are_paired():
    """The errors above are not what saves them."""
    torch.manual_seed(0)
    nets = [Described(seed) for seed in range(10)]
    found = [judged(net, torch_port(net, "vqk")) for net in nets]
    assert found.count("equivalent") >= 9, found


@pytest.mark.parametrize("framework", ["keras", "tensorflow"])
def test_shuffled_trees_of_tensorflow(framework):
    tf = pytest.importorskip("tensorflow")
    if framework == "keras":
        keras = pytest.importorskip("keras")

        class Port(keras.Model):
            def __init__(self):
                super().__init__()
                self.zz = keras.layers.Dense(4, name="uv")
                self.aa = keras.layers.Dense(4, name="pq")
                self.mm = keras.layers.Dense(4, name="st")

            def call(self, x):
                return self.aa(tf.tanh(self.mm(tf.tanh(self.zz(x)))))
    else:

        class Port(tf.Module):
            def __init__(self):
                super().__init__()
                self.aa, self.mm, self.zz = (tf.Variable(tf.random.normal((4, 4))) for _ in "abc")
                self.bb, self.kk, self.yy = (tf.Variable(tf.zeros(4)) for _ in "abc")

            def __call__(self, x):
                x = tf.tanh(x @ self.zz + self.kk)
                return tf.tanh(x @ self.mm + self.bb) @ self.aa + self.yy

    reference = nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)
    )
    found = fwc.compare(reference, Port(), inputs={"x": fwc.TensorSpec((3, 4))}, examples=4)
    assert found.passed, found.summary()


class Named(nn.Module):
    """Attention whose layers say what they are; `exchanged` takes the key for the query."""

    def __init__(self, exchanged: bool):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.output, self.exchanged = nn.Linear(4, 4), exchanged

    def forward(self, x):
        query, key = (self.key, self.query) if self.exchanged else (self.query, self.key)
        scores = torch.softmax(query(x) @ key(x).transpose(1, 2) / 2, -1)
        return self.output(scores @ self.value(x))


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_order_of_use_excuses_no_exchange_that_names_deny(exchanged):
    inputs = {"x": fwc.TensorSpec((2, 3, 4))}
    found = fwc.compare(Named(False), Named(exchanged), inputs=inputs, examples=4, explain=False)
    assert found.verdict == ("semantic" if exchanged else "equivalent"), found.summary()
