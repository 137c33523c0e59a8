"""Networks: names, order, shared layers, what they refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks import (
    GRU,
    LSTM,
    Activation,
    Add,
    Bidirectional,
    Conv1D,
    Conv2D,
    Dense,
    Embedding,
    Graph,
    Input,
    MaxPool2D,
    MultiHeadAttention,
    Pad,
    Reshape,
    RMSNorm,
    Sequential,
    SimpleRNN,
    Softmax,
    Upsample,
)


def test_sequential_names_and_orders_its_layers() -> None:
    network = Sequential(
        [Conv2D(4, 3), Activation("relu"), Conv2D(4, 3, name="second"), Activation("relu")],
        input_shape=(8, 8, 1),
    )
    assert list(network.layers) == ["conv2d", "relu", "second", "relu_2"]
    assert [step.name for step in network.nodes] == list(network.layers)
    assert [step.inputs for step in network.nodes] == [("x",), ("conv2d",), ("relu",), ("second",)]
    assert network.inputs["x"].shape == ("batch", 8, 8, 1)
    assert network.outputs["output"].shape == ("batch", 4, 4, 4)
    assert network.structure == "tensor"
    assert network.layers["relu"].name == "relu"
    assert repr(network) == "<Sequential 'network': x -> output, 4 layers>"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (MultiHeadAttention(1, 4), "multi_head_attention"),
        (RMSNorm(), "rms_norm"),
        (Upsample(2), "upsample"),
        (MaxPool2D(2), "max_pool2d"),
        (SimpleRNN(2), "simple_rnn"),
        (Activation("hard_silu"), "hard_silu"),
        (GRU(2), "gru"),
    ],
)
def test_names_come_from_classes(layer, name) -> None:
    rank = 2 if isinstance(layer, MaxPool2D) else 1
    network = Sequential([layer], input_shape=(4,) * rank + (4,))
    assert list(network.layers) == [name]


def test_automatic_names_avoid_given_ones() -> None:
    layers = [Dense(2), Dense(2, name="dense_2"), Dense(2), Dense(2, name="dense_3")]
    with pytest.raises(NetworkError, match="two layers are called 'dense_3'"):
        Sequential(layers, input_shape=(2,))
    network = Sequential(layers[:3], input_shape=(2,), input_name="x")
    assert list(network.layers) == ["dense", "dense_2", "dense_3"]
    assert list(Sequential([Dense(2)], input_shape=(2,), input_name="dense").layers) == ["dense_2"]


def test_a_shared_layer_is_listed_once_and_used_twice() -> None:
    x, y = Input("x", (4,)), Input("y", (4,))
    shared = Dense(3)
    network = Graph([x, y], {"sum": Add()(shared(x), shared(y)), "x": shared(x)})
    assert list(network.layers) == ["dense", "add"]
    assert [step.name for step in network.nodes] == ["dense", "dense:2", "add", "dense:3"]
    assert {step.layer_name for step in network.nodes} == {"dense", "add"}
    assert list(network.parameters()) == ["dense.kernel", "dense.bias"]
    assert network.outputs["x"].name == "dense:3"
    assert network.first_use("dense").inputs == ("x",)


def test_parameters_of_a_nested_layer() -> None:
    network = Sequential([Bidirectional(LSTM(2), name="both")], input_shape=("time", 3))
    specs = network.parameters()
    assert list(specs) == [
        *(f"both.forward.{name}" for name in ("kernel", "recurrent_kernel", "bias")),
        *(f"both.backward.{name}" for name in ("kernel", "recurrent_kernel", "bias")),
    ]
    assert specs["both.backward.kernel"].shape == (3, 8)
    assert specs["both.backward.kernel"].fan_in == 3


def test_evaluate_walks_in_order_with_keywords() -> None:
    query, mask = Input("query", ("time", 4)), Input("mask", ("time",), "bool")
    attended = MultiHeadAttention(1, 4, name="attention")(query, mask=mask)
    network = Graph([query, mask], {"y": Add()(query, attended), "z": Softmax()(attended)})
    seen = []

    def function(layer, name, values, keywords):
        seen.append((type(layer).__name__, name, values, keywords))
        return name.upper()

    assert network.evaluate(function, {"query": "q", "mask": "m"}) == {"y": "ADD", "z": "SOFTMAX"}
    assert seen == [
        ("MultiHeadAttention", "attention", ["q"], {"mask": "m"}),
        ("Add", "add", ["q", "ATTENTION"], {}),
        ("Softmax", "softmax", ["ATTENTION"], {}),
    ]


def test_outputs_are_packed_as_they_were_given() -> None:
    x = Input("x", (2,))
    first, second = Dense(2)(x), Dense(3)(x)
    one, several = Graph([x], first), Graph([x], [first, second])
    named = Graph([x], {"only": first})
    assert (one.structure, several.structure, named.structure) == ("tensor", "tuple", "dict")
    assert list(several.outputs) == ["0", "1"]
    assert one.pack({"output": 1}) == 1
    assert several.pack({"0": 1, "1": 2}) == (1, 2)
    assert named.pack({"only": 1}) == {"only": 1}


def test_attention_takes_its_memory_either_way() -> None:
    x, y = Input("x", ("time", 4)), Input("y", ("source", 3))
    attention = MultiHeadAttention(2, 2)
    for node in (attention(x, y), attention(x, memory=y), attention(x, y, mask=None)):
        assert node.inputs == (x, y)
        assert not node.keywords
    assert attention(x, None, mask=None).inputs == (x,)


def test_free_sizes_keep_their_names() -> None:
    network = Sequential(
        [Conv1D(4, 3, padding="same"), Conv1D(4, 5, stride=2), Upsample(2), Pad(((1, 2),))],
        input_shape=("time", 2),
    )
    assert [step.shape[1] for step in network.nodes] == [
        "time",
        "(time - 5)//2 + 1",
        "2*((time - 5)//2 + 1)",
        "2*((time - 5)//2 + 1) + 3",
    ]


def test_dtypes_follow_the_layers() -> None:
    tokens = Input("tokens", ("time",), "int64", low=0, high=9)
    network = Graph([tokens], [Embedding(9, 4)(Reshape((-1,))(tokens))])
    assert [step.dtype for step in network.nodes] == ["int64", "float32"]
    assert network.inputs["tokens"].high == 9


def test_deep_networks_need_no_recursion() -> None:
    network = Sequential([Activation("tanh") for _ in range(3000)], input_shape=(2,))
    assert len(network.nodes) == 3000


def test_describing_needs_no_framework() -> None:
    code = (
        "import sys, pytest_fwcompare.networks as n\n"
        "n.zoo.lenet()\n"
        "print(*sorted({'torch', 'tensorflow', 'keras', 'jax', 'autograd', 'hypothesis'} "
        "& set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
