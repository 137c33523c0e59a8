from __future__ import annotations

import dataclasses
import itertools
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import Evidence, Mapping, automatic_mapping, candidates

from .trees import (
    bert_keras_hub,
    bert_tensorflow,
    bert_torch,
    dense_keras,
    distinct,
    linear_torch,
    norm_keras,
    norm_torch,
    parameter,
)


def guess(reference, port, frameworks=("torch", "keras")):
    return candidates(
        reference, port, reference_framework=frameworks[0], port_framework=frameworks[1]
    )


def sources(mapping: Mapping) -> dict[str, tuple[str, ...]]:
    return {link.port: link.sources for link in mapping.links}


class Truth:
    """Evidence as the shadows would give it: a port parameter is found if its values are right
    and all before it are, as layers one after the other behave."""

    def __init__(self, reference: list[Parameter], right: dict[str, np.ndarray]) -> None:
        self.values, self.right, self.calls = distinct(reference), right, 0

    def __call__(self, mapping: Mapping) -> Evidence:
        self.calls += 1
        made = mapping.port_values(self.values)
        good = 0
        for name, value in self.right.items():
            if name not in made or not np.array_equal(made[name], value):
                break
            good += 1
        return Evidence(good / len(self.right), 0.0 if good == len(self.right) else 1.0)


# Real trees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [bert_tensorflow, bert_keras_hub])
def test_bert_maps_by_names_and_shapes_alone(port) -> None:
    reference = bert_torch()
    made = guess(reference, port(), ("torch", "tensorflow"))
    # "feedforward" and "output" have nothing in common that tells these two norms apart.
    assert all("LayerNorm could be exchanged" in choice.question for choice in made.choices)
    assert bool(made.choices) == (port is bert_keras_hub)
    mapping = made.best
    assert not mapping.unmatched_port
    assert not mapping.unmatched_reference
    found = sources(mapping)
    if port is bert_keras_hub:
        path = "transformer_layer_1/"
        expected = {
            "self_attention_layer/key/kernel": "attention.self.key.weight",
            "self_attention_layer/attention_output/bias": "attention.output.dense.bias",
            "self_attention_layer_norm/gamma": "attention.output.LayerNorm.weight",
            "feedforward_layer_norm/beta": "output.LayerNorm.bias",
            "feedforward_output_dense/kernel": "output.dense.weight",
        }
        for name, source in expected.items():
            assert found[path + name] == (f"encoder.layer.1.{source}",)
        values = distinct(reference)
        kernel = mapping.port_values(values)[f"{path}self_attention_layer/attention_output/kernel"]
        weight = values["encoder.layer.1.attention.output.dense.weight"]
        np.testing.assert_array_equal(kernel.reshape(8, 8), weight.T)
    else:
        for name, (source,) in found.items():
            plain = name.partition("bert/")[2].replace("layer_._", "layer/").replace(":0", "")
            assert plain.replace("/", ".").rpartition(".")[0] == source.rpartition(".")[0]


def test_bert_base_maps_quickly() -> None:
    reference, port = bert_torch(12, 768, 30522), bert_tensorflow(12, 768, 30522)
    started = time.process_time()
    made = guess(reference, port, ("torch", "tensorflow"))
    assert time.process_time() - started < 5
    assert len(made.best.links) == len(port)


def test_layers_in_another_order_are_paired_by_name() -> None:
    reference = [*linear_torch("encoder.query", 6, 6), *linear_torch("encoder.key", 6, 6),
                 *linear_torch("encoder.value", 6, 6), *linear_torch("head", 6, 3)]  # fmt: skip
    port = [*dense_keras("scores", 6, 3), *dense_keras("enc/to_v", 6, 6),
            *dense_keras("enc/to_k", 6, 6), *dense_keras("enc/to_q", 6, 6)]  # fmt: skip
    found = sources(guess(reference, port).best)
    assert found["enc/to_q/kernel"] == ("encoder.query.weight",)
    assert found["enc/to_k/kernel"] == ("encoder.key.weight",)
    assert found["enc/to_v/bias"] == ("encoder.value.bias",)
    assert found["scores/kernel"] == ("head.weight",)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 3))
def test_a_shuffled_tree_with_its_names_is_recovered(seed: int, layers: int) -> None:
    reference, port = bert_torch(layers), bert_tensorflow(layers)
    units: dict[str, list[Parameter]] = {}
    for one in port:
        units.setdefault(one.layer, []).append(one)
    order = list(units.values())
    random.Random(seed).shuffle(order)
    shuffled = [one for members in order for one in members]
    expected = sources(guess(reference, port, ("torch", "tensorflow")).best)
    assert sources(guess(reference, shuffled, ("torch", "tensorflow")).best) == expected


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=7), bias=st.booleans())
def test_names_without_meaning_are_paired_by_shape_and_order(sizes: list[int], bias: bool) -> None:
    reference, port = [], []
    for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        reference += linear_torch(f"body.{2 * place}", inputs, outputs, bias)
        port += dense_keras(f"dense_{place}" if place else "dense", inputs, outputs)[: 1 + bias]
    mapping = guess(reference, port).best
    assert [link.sources for link in mapping.links] == [(one.name,) for one in reference]
    values = distinct(reference)
    for link, value in zip(mapping.links, mapping.port_values(values).values(), strict=True):
        np.testing.assert_array_equal(value, values[link.sources[0]].T)


def test_jax_layers_are_ordered_by_number() -> None:
    reference = [p for n in range(12) for p in linear_torch(f"layers.{n}", 4, 4)]
    port = sorted(
        (parameter(f"Dense_{n}.{role}", shape, "Dense")
         for n in range(12) for role, shape in (("kernel", (4, 4)), ("bias", (4,)))),
        key=lambda p: p.name,
    )  # fmt: skip
    found = sources(guess(reference, port, ("torch", "jax")).best)
    assert found["Dense_2.kernel"] == ("layers.2.weight",)
    assert found["Dense_10.kernel"] == ("layers.10.weight",)


# Conversions -----------------------------------------------------------------------------------


def attention(fused: str) -> list[Parameter]:
    return [parameter(f"attn.{fused}.weight", (24, 8), "Linear"),
            parameter(f"attn.{fused}.bias", (24,), "Linear"),
            *linear_torch("attn.out", 8, 8)]  # fmt: skip


def separate() -> list[Parameter]:
    return [p for part in ("q", "k", "v", "o") for p in dense_keras(f"att/{part}_proj", 8, 8)]


def test_fused_projection_is_cut_in_order() -> None:
    reference = attention("qkv")
    made = guess(reference, separate())
    values = distinct(reference)
    cut = made.best.port_values(values)
    for place, part in enumerate("qkv"):
        rows = slice(8 * place, 8 * place + 8)
        kernel = cut[f"att/{part}_proj/kernel"]
        np.testing.assert_array_equal(kernel, values["attn.qkv.weight"][rows].T)
        np.testing.assert_array_equal(cut[f"att/{part}_proj/bias"], values["attn.qkv.bias"][rows])


def test_separate_projections_are_fused_whatever_their_order() -> None:
    reference = [p for part in ("value", "query", "key") for p in linear_torch(part, 8, 8)]
    port = [parameter("c_attn/weight", (8, 24), "TFConv1D"),
            parameter("c_attn/bias", (1, 24), "TFConv1D")]  # fmt: skip
    values = distinct(reference)
    made = guess(reference, port, ("torch", "tensorflow")).best.port_values(values)
    expected = np.concatenate([values[f"{part}.weight"] for part in ("query", "key", "value")])
    np.testing.assert_array_equal(made["c_attn/weight"], expected.T)
    assert made["c_attn/bias"].shape == (1, 24)


def test_projection_fused_head_by_head_is_found_by_evidence() -> None:
    reference, port = attention("qkv"), separate()
    values = distinct(reference)
    heads = values["attn.qkv.weight"].reshape(2, 3, 4, 8)
    biases = values["attn.qkv.bias"].reshape(2, 3, 4)
    right = {}
    for place, part in enumerate("qkv"):
        right[f"att/{part}_proj/kernel"] = heads[:, place].reshape(8, 8).T
        right[f"att/{part}_proj/bias"] = biases[:, place].reshape(8)
    truth = Truth(reference, right)
    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=truth
    )
    made = mapping.port_values(values)
    for name, value in right.items():
        np.testing.assert_array_equal(made[name], value)
    assert "decided by the values of both float64 shadows" in mapping.notices[0]
    assert "2 heads" in mapping.notices[0]


def test_grouped_query_projection_of_unequal_parts() -> None:
    reference = [parameter("qkv.weight", (16, 8), "Linear")]
    port = [parameter(f"{part}/kernel", (8, size), "Dense")
            for part, size in (("query", 8), ("key", 4), ("value", 4))]  # fmt: skip
    values = distinct(reference)
    made = guess(reference, port).best.port_values(values)
    np.testing.assert_array_equal(made["key/kernel"], values["qkv.weight"][8:12].T)
    np.testing.assert_array_equal(made["query/kernel"], values["qkv.weight"][:8].T)


def test_conv1d_of_gpt2_is_a_transposed_linear() -> None:
    reference = [
        parameter("c_fc.weight", (8, 8), "Conv1D"),
        parameter("c_fc.bias", (8,), "Conv1D"),
    ]
    values = distinct(reference)
    made = guess(reference, dense_keras("fc", 8, 8))
    assert not made.choices
    np.testing.assert_array_equal(
        made.best.port_values(values)["fc/kernel"], values["c_fc.weight"]
    )


def test_one_cell_convolution_is_a_dense_layer() -> None:
    reference = [
        parameter("mix.weight", (6, 4, 1), "Conv1d"),
        parameter("mix.bias", (6,), "Conv1d"),
    ]
    values = distinct(reference)
    made = guess(reference, dense_keras("mix", 4, 6)).best.port_values(values)
    np.testing.assert_array_equal(made["mix/kernel"], values["mix.weight"][:, :, 0].T)


def test_tables_and_tokens_of_a_vision_transformer() -> None:
    reference = [parameter("embeddings.cls_token", (1, 1, 8), "ViTEmbeddings"),
                 parameter("embeddings.position_embeddings", (1, 17, 8), "ViTEmbeddings"),
                 parameter("embeddings.patch.projection.weight", (8, 3, 4, 4), "Conv2d"),
                 parameter("embeddings.patch.projection.bias", (8,), "Conv2d")]  # fmt: skip
    port = [parameter("vit/patching/conv/kernel", (4, 4, 3, 8), "Conv2D"),
            parameter("vit/patching/conv/bias", (8,), "Conv2D"),
            parameter("vit/patching/class_token", (1, 1, 8), "ViTPatchingAndEmbedding"),
            parameter("vit/patching/position_embedding/embeddings", (17, 8), "Embedding"),
            ]  # fmt: skip
    made = guess(reference, port)
    found = sources(made.best)
    assert found["vit/patching/class_token"] == ("embeddings.cls_token",)
    assert found["vit/patching/position_embedding/embeddings"] == (
        "embeddings.position_embeddings",
    )
    assert found["vit/patching/conv/kernel"] == ("embeddings.patch.projection.weight",)
    assert made.best.port_values(distinct(reference))["vit/patching/conv/bias"].shape == (8,)


def test_statistics_go_to_statistics() -> None:
    roles = ("weight", "bias", "running_mean", "running_var")
    reference = [parameter(f"bn.{role}", (5,), "BatchNorm2d") for role in roles]
    roles = ("moving_variance", "gamma", "moving_mean", "beta")
    port = [parameter(f"norm/{role}", (5,), "BatchNormalization") for role in roles]
    assert sources(guess(reference, port).best) == {
        "norm/gamma": ("bn.weight",),
        "norm/beta": ("bn.bias",),
        "norm/moving_mean": ("bn.running_mean",),
        "norm/moving_variance": ("bn.running_var",),
    }


def test_custom_cell_keeps_the_reference_s_gate_order() -> None:
    """Gates of an undocumented cell are not searched: a port that swaps them stays wrong."""
    reference = [parameter(f"rnn.{name}_l0", shape, "GRU") for name, shape in
                 (("weight_ih", (15, 4)), ("weight_hh", (15, 5)),
                  ("bias_ih", (15,)), ("bias_hh", (15,)))]  # fmt: skip
    port = [parameter(f"cell/{name}", shape, "GatedCell") for name, shape in
            (("input_kernel", (4, 15)), ("input_bias", (15,)),
             ("state_kernel", (5, 15)), ("state_bias", (15,)))]  # fmt: skip
    values = distinct(reference)
    made = guess(reference, port).best
    assert sources(made)["cell/state_bias"] == ("rnn.bias_hh_l0",)
    for name, source in (("input_kernel", "weight_ih"), ("state_kernel", "weight_hh")):
        np.testing.assert_array_equal(
            made.port_values(values)[f"cell/{name}"], values[f"rnn.{source}_l0"].T
        )


def test_second_bias_is_zero_where_the_reference_has_one() -> None:
    reference = [parameter(f"lstm/cell/{name}", shape, "LSTMCell") for name, shape in
                 (("kernel", (3, 20)), ("recurrent_kernel", (5, 20)),
                  ("bias", (20,)))]  # fmt: skip
    port = [parameter(f"lstm.{name}_l0", shape, "LSTM") for name, shape in
            (("weight_ih", (20, 3)), ("weight_hh", (20, 5)),
             ("bias_ih", (20,)), ("bias_hh", (20,)))]  # fmt: skip
    values = distinct(reference)
    made = guess(reference, port, ("keras", "torch")).best.port_values(values)
    np.testing.assert_array_equal(made["lstm.bias_ih_l0"], values["lstm/cell/bias"])
    assert not made["lstm.bias_hh_l0"].any()


# One side only ---------------------------------------------------------------------------------


def test_a_missing_bias_is_named_and_the_rest_is_mapped() -> None:
    reference = [*linear_torch("first", 4, 6), *linear_torch("second", 6, 3)]
    port = [dense_keras("first", 4, 6)[0], *dense_keras("second", 6, 3)]
    mapping = guess(reference, port).best
    assert list(mapping.unmatched_reference) == ["first.bias"]
    assert "no such bias" in mapping.unmatched_reference["first.bias"]
    assert len(mapping.links) == 3


def test_a_missing_layer_is_named() -> None:
    reference = [*linear_torch("first", 4, 6), *norm_torch("norm", 6), *linear_torch("last", 6, 3)]
    port = [*dense_keras("a", 4, 6), *dense_keras("b", 6, 3)]
    mapping = guess(reference, port).best
    assert mapping.unmatched_reference == {
        "norm.weight": "no layer of the port fits (6,)",
        "norm.bias": "no layer of the port fits (6,)",
    }
    spare = guess(reference, [*port, *norm_keras("n", 6), *norm_keras("m", 7)]).best
    assert set(spare.unmatched_port) == {"m/gamma", "m/beta"}


def test_models_with_nothing_in_common() -> None:
    with pytest.raises(MappingError) as caught:
        guess(linear_torch("first", 4, 6), dense_keras("dense", 5, 7))
    text = str(caught.value)
    assert "cannot be paired: only 0% of the reference's values fit anything in the port" in text
    assert "first.weight (6, 4) (Linear)" in text
    assert "dense/kernel (5, 7) (Dense)" in text


# Evidence --------------------------------------------------------------------------------------


def raw_matrices(names: str, size: int = 4) -> list[Parameter]:
    return [Parameter(name, (size, size), "float32", True, role=name) for name in names]


def test_square_matrix_follows_the_layers_that_are_not_square() -> None:
    reference = [*linear_torch("one", 3, 5, False), *linear_torch("two", 5, 5, False)]
    port = [
        Parameter("basis", (5, 3), "float32", True),
        Parameter("gram", (5, 5), "float32", True),
    ]
    values = distinct(reference)
    made = guess(reference, port, ("torch", "tensorflow")).best.port_values(values)
    np.testing.assert_array_equal(made["basis"], values["one.weight"])
    np.testing.assert_array_equal(made["gram"], values["two.weight"])


@pytest.mark.parametrize("transposed", [True, False])
def test_lone_square_matrix_is_decided_by_evidence(transposed: bool) -> None:
    reference = linear_torch("solve", 5, 5, False)
    port = [Parameter("gram", (5, 5), "float32", True)]
    weight = distinct(reference)["solve.weight"]
    truth = Truth(reference, {"gram": weight.T if transposed else weight})
    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="tensorflow", evidence=truth
    )
    made = mapping.port_values(distinct(reference))["gram"]
    np.testing.assert_array_equal(made, truth.right["gram"])
    assert truth.calls <= 2


def test_documented_square_matrix_is_never_searched() -> None:
    reference, port = linear_torch("solve", 5, 5), dense_keras("gram", 5, 5)
    assert not guess(reference, port).choices


def test_exchanged_layers_are_put_right_by_evidence() -> None:
    reference = [*linear_torch("a1", 4, 4), *linear_torch("b2", 4, 4), *linear_torch("c3", 4, 4)]
    port = [*dense_keras("x", 4, 4), *dense_keras("y", 4, 4), *dense_keras("z", 4, 4)]
    values = distinct(reference)
    right = {}
    for name, source in (("y", "a1"), ("z", "b2"), ("x", "c3")):
        right[f"{name}/kernel"] = values[f"{source}.weight"].T
        right[f"{name}/bias"] = values[f"{source}.bias"]
    truth = Truth(reference, right)
    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=truth
    )
    assert sources(mapping)["y/kernel"] == ("a1.weight",)
    assert sources(mapping)["x/bias"] == ("c3.bias",)
    assert truth.calls <= 60


def test_evidence_is_not_asked_where_nothing_is_open() -> None:
    def never(_: Mapping) -> Evidence:
        raise AssertionError("asked")

    mapping = automatic_mapping(
        bert_torch(), bert_tensorflow(), reference_framework="torch",
        port_framework="tensorflow", evidence=never,
    )  # fmt: skip
    assert len(mapping.links) == len(bert_torch())


def test_a_faulty_port_keeps_the_best_guess() -> None:
    """Nothing explains the port: no alternative may be taken for it, and the calls are bounded."""
    reference = [p for n in range(12) for p in linear_torch(f"layers.{n}", 4, 4)]
    port = [p for n in range(12) for p in dense_keras(f"step{chr(97 + n)}", 4, 4)]
    calls = []

    def hopeless(mapping: Mapping) -> Evidence:
        calls.append(mapping)
        return Evidence(0.4, 0.3)

    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=hopeless
    )
    assert sources(mapping) == sources(guess(reference, port).best)
    assert len(calls) <= 60


def test_suspects_save_calls() -> None:
    reference = [p for n in range(8) for p in linear_torch(f"layers.{n}", 4, 4)]
    port = [p for n in range(8) for p in dense_keras(f"step{chr(97 + n)}", 4, 4)]
    calls = []

    def pointing(mapping: Mapping) -> Evidence:
        calls.append(mapping)
        return Evidence(0.4, 0.3, suspects=("layers.5.weight",))

    automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=pointing
    )
    assert len(calls) <= 1 + 7


def scalars() -> tuple[list[Parameter], list[Parameter]]:
    return (
        [Parameter(name, (), "float32", True, role=name) for name in ("gain", "offset", "base")],
        [Parameter(name, (), "float32", True, role=name) for name in ("expect", "level", "slope")],
    )


def test_scalars_of_a_sorted_tree_are_decided_by_evidence() -> None:
    reference, port = scalars()
    values = distinct(reference)
    right = {"slope": values["gain"], "level": values["offset"], "expect": values["base"]}
    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="jax",
        evidence=Truth(reference, right),
    )  # fmt: skip
    assert mapping.port_values(values) == right


def test_an_ambiguity_that_evidence_cannot_settle_is_an_error() -> None:
    reference, port = scalars()
    with pytest.raises(MappingError) as caught:
        automatic_mapping(
            reference, port, reference_framework="torch", port_framework="jax",
            evidence=lambda _: Evidence(0.0, 1.0),
        )  # fmt: skip
    text = str(caught.value)
    assert "can be paired in more than one way, and nothing tells which is meant" in text
    assert "gain and offset could be exchanged" in text
    assert "Say it with weights={port name: (reference name, transform)}" in text
    with pytest.raises(MappingError, match="in more than one way"):
        automatic_mapping(reference, port, reference_framework="torch", port_framework="jax")


def test_an_undocumented_square_matrix_on_both_sides_is_an_error_without_evidence() -> None:
    reference = [dataclasses.replace(p, kind="Mine") for p in raw_matrices("m")]
    with pytest.raises(MappingError, match="axis order of Mine"):
        automatic_mapping(
            reference, raw_matrices("m"), reference_framework="torch", port_framework="keras"
        )


def test_a_habit_that_no_value_confirms_is_said() -> None:
    reference = linear_torch("solve", 5, 5, False)
    mapping = automatic_mapping(
        reference, [Parameter("gram", (5, 5), "float32", True)], reference_framework="torch",
        port_framework="tensorflow", evidence=lambda _: Evidence(0.0, 1.0),
    )  # fmt: skip
    assert "is taken as usual for the framework; no value confirmed it" in mapping.notices[0]


def test_weight_norm_of_a_convolution() -> None:
    """torch keeps magnitude and direction in a submodule, TensorFlow beside the bias."""
    reference = [parameter("pos.conv.bias", (8,), "ParametrizedConv1d"),
                 parameter("pos.conv.parametrizations.weight.original0", (1, 1, 16),
                           "ParametrizationList"),
                 parameter("pos.conv.parametrizations.weight.original1", (8, 4, 16),
                           "ParametrizationList")]  # fmt: skip
    port = [parameter(f"pos/conv/{role}", shape, "TFWav2Vec2WeightNormConv1D") for role, shape in
            (("weight_v", (8, 4, 16)), ("weight_g", (16, 1, 1)), ("bias", (8,)))]  # fmt: skip
    made = guess(reference, port, ("torch", "tensorflow")).best
    assert sources(made) == {
        "pos/conv/weight_v": ("pos.conv.parametrizations.weight.original1",),
        "pos/conv/weight_g": ("pos.conv.parametrizations.weight.original0",),
        "pos/conv/bias": ("pos.conv.bias",),
    }
    values = distinct(reference)
    np.testing.assert_array_equal(
        made.port_values(values)["pos/conv/weight_v"],
        values["pos.conv.parametrizations.weight.original1"],
    )


def test_norms_before_and_after_their_layers() -> None:
    """GPT-2's norms come first in torch and after their layers in keras-hub: numbers tell."""
    reference, port = [], []
    for layer in range(3):
        reference += [
            *norm_torch(f"h.{layer}.ln_1", 8),
            parameter(f"h.{layer}.attn.c_attn.weight", (8, 24), "Conv1D"),
            *norm_torch(f"h.{layer}.ln_2", 8),
            parameter(f"h.{layer}.mlp.c_fc.weight", (8, 32), "Conv1D"),
        ]
        path = f"transformer_layer_{layer}"
        port += [
            *(dense_keras(f"{path}/self_attention/{part}", 8, 8)[0]
              for part in ("query", "key", "value")),
            *norm_keras(f"{path}/self_attention_layer_norm", 8),
            dense_keras(f"{path}/feedforward_dense", 8, 32)[0],
            *norm_keras(f"{path}/feedforward_layer_norm", 8),
        ]  # fmt: skip
    reference += norm_torch("ln_f", 8)
    port += norm_keras("layer_norm", 8)
    found = sources(guess(reference, port).best)
    for layer in range(3):
        path = f"transformer_layer_{layer}"
        assert found[f"{path}/self_attention_layer_norm/gamma"] == (f"h.{layer}.ln_1.weight",)
        assert found[f"{path}/feedforward_layer_norm/beta"] == (f"h.{layer}.ln_2.bias",)
    assert found["layer_norm/gamma"] == ("ln_f.weight",)


def test_a_number_in_the_model_s_name_is_no_depth() -> None:
    names = [f"{side}.block.{n}.layer.{m}.layer_norm" for side in ("encoder", "decoder")
             for n in range(2) for m in range(2)]  # fmt: skip
    reference = [parameter(f"{name}.weight", (8,), "T5LayerNorm") for name in names]
    port = [parameter(f"t5/{name.replace('.', '/')}/weight", (8,), "TFT5LayerNorm")
            for name in names]  # fmt: skip
    made = guess(reference, port, ("torch", "tensorflow"))
    assert [link.sources for link in made.best.links] == [(p.name,) for p in reference]
    assert not made.choices


def test_vectors_of_one_layer_are_a_norm_whatever_their_names() -> None:
    reference = norm_torch("norm", 8)
    port = [parameter(f"own/{name}", (8,), "OwnNorm") for name in ("factor", "term")]
    made = guess(reference, port).best
    assert sources(made) == {"own/factor": ("norm.weight",), "own/term": ("norm.bias",)}


def llama(names: str) -> list[Parameter]:
    """Blocks of two linear layers and two norms, as transformers and as keras-hub name them."""
    if names == "torch":
        return [
            p
            for block in range(3)
            for p in (
                parameter(f"layers.{block}.self_attn.q_proj.weight", (8, 8), kind="Linear"),
                parameter(f"layers.{block}.mlp.up_proj.weight", (16, 8), kind="Linear"),
                parameter(f"layers.{block}.input_layernorm.weight", (8,), kind="RMSNorm"),
                parameter(f"layers.{block}.post_attention_layernorm.weight", (8,), kind="RMSNorm"),
            )
        ]
    path = "transformer_layer"
    return [
        p
        for block in range(3)
        for p in (
            parameter(f"{path}_{block}/self_attention/query/kernel", (8, 8), kind="Dense"),
            parameter(
                f"{path}_{block}/self_attention_layernorm/scale", (8,), kind="LlamaLayerNorm"
            ),
            parameter(f"{path}_{block}/feedforward_dense/kernel", (8, 16), kind="Dense"),
            parameter(f"{path}_{block}/feedforward_layernorm/scale", (8,), kind="LlamaLayerNorm"),
        )
    ]


@pytest.mark.parametrize("crossed", [False, True])
def test_a_word_in_common_on_one_side_leaves_the_question_to_evidence(crossed: bool) -> None:
    """ "post_attention" is before the feed-forward layers, whatever "self_attention" is called."""
    reference, port = llama("torch"), llama("keras")
    roles = ["post_attention", "input"] if not crossed else ["input", "post_attention"]
    right = {
        f"transformer_layer_{block}/{name}_layernorm/scale": (
            f"layers.{block}.{role}_layernorm.weight",
        )
        for block in range(3)
        for name, role in zip(("self_attention", "feedforward"), roles, strict=True)
    }

    def evidence(mapping: Mapping) -> Evidence:
        found = sources(mapping)
        share = sum(found.get(name) == source for name, source in right.items()) / len(right)
        return Evidence(share, 0.0 if share == 1 else 1.0)

    mapping = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=evidence
    )
    assert right.items() <= sources(mapping).items()


def test_equal_names_are_never_exchanged_even_if_that_would_explain_more() -> None:
    """Query and key exchanged in the port is a fault to be found, not a mapping."""

    def evidence(mapping: Mapping) -> Evidence:
        found = sources(mapping)
        key = found["bert/encoder/layer_._0/attention/self/key/kernel:0"]
        return Evidence(float("query" in key[0]), 0.5)

    mapping = automatic_mapping(
        bert_torch(), bert_tensorflow(), reference_framework="torch",
        port_framework="tensorflow", evidence=evidence,
    )  # fmt: skip
    assert all("key" in link.sources[0] for link in mapping.links if "/key/" in link.port)


def test_names_that_count_layers_last() -> None:
    """`ln_b0` is the second norm of layer 0, not the first of layer 1: the order tells."""
    reference, port = [], []
    for layer in range(2):
        reference += norm_torch(f"layers.{layer}.norm1", 8) + norm_torch(
            f"layers.{layer}.norm2", 8
        )
        port += norm_keras(f"ln_a{layer}", 8) + norm_keras(f"ln_b{layer}", 8)
    best = guess(reference, port).best
    assert [link.sources[0] for link in best.links] == [p.name for p in reference]


def test_where_the_same_is_found_the_closer_output_decides() -> None:
    reference, port = [], []
    for layer in range(2):
        reference += norm_torch(f"layers.{layer}.norm1", 8) + norm_torch(
            f"layers.{layer}.norm2", 8
        )
        port += norm_keras(f"layer{layer}/norm2", 8) + norm_keras(f"layer{layer}/norm1", 8)
    names = [p.name for p in reference]

    def evidence(mapping: Mapping) -> Evidence:
        right = [link.sources[0] for link in mapping.links] == names
        return Evidence(0.5, 1e-3 if right else 1.0)

    assert [link.sources[0] for link in guess(reference, port).best.links] != names
    found = automatic_mapping(
        reference, port, reference_framework="torch", port_framework="keras", evidence=evidence
    )
    assert [link.sources[0] for link in found.links] == names
