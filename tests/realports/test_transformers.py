"""TensorFlow classes of transformers against its torch classes, mapped with no help."""

from __future__ import annotations

import random

import pytest
from realports.judged import assert_all_mapped, judge

ALONE = {
    "gpt2": ("masked_bias",),  # a constant that the torch class no longer reads
}


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "vit", "resnet", "wav2vec2"])
def test_right_ports_are_equivalent(transformers_models, family):
    ported = transformers_models.seeded(transformers_models.RIGHT[family], 7)
    found = judge(ported)
    assert found.verdict == "equivalent", found.summary()
    assert found.gap < 1e-8
    assert found.controls.caught > 0.5 * len(found.controls.tried)
    assert_all_mapped(found, ALONE.get(family, ()))
    if family in ("gpt2", "t5"):
        assert any("'past_key_values'" in text and "Cache" in text for text in found.notices)


def test_a_padding_token_has_no_gradient_in_torch_alone(transformers_models):
    """Finding: torch's `padding_idx=0`; in TensorFlow the row of the padding token is trained.

    Measured: outputs agree to 1e-9, the gradient of row 0 is 0 against up to 48, 0.4 of the
    largest.
    """
    found = judge(transformers_models.seeded(lambda: transformers_models.bert(first=0), 7))
    assert found.verdict == "semantic", found.summary()
    assert found.culprit == "embeddings.word_embeddings"
    assert found.cause == "embedding"
    assert "row 0 of embeddings.word_embeddings.weight" in " ".join(found.evidence)
    wrong = [row.name for row in found.tensors if row.verdict != "equivalent"]
    assert wrong == ["gradient of embeddings.word_embeddings.weight"]
    assert found.gap > 0.01


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_resnet_pads_its_pool_with_zeros_in_tensorflow(transformers_models, activation):
    """Finding: zeros around the max-pool win where activations go below zero (never with ReLU).

    Measured with SiLU: outputs differ by 0.12 of the largest value; with minus infinity
    exchanged for zero the reference gives the port's value to 5e-16.
    """
    found = judge(transformers_models.seeded(lambda: transformers_models.resnet(activation), 7))
    assert found.verdict == "semantic", found.summary()
    assert found.culprit == "embedder.pooler"
    assert found.cause == "padding-value"
    assert found.gap > 1e-3


def plant_epsilon(layer, draw):
    norm = draw.choice(
        [("attention.output", layer.attention.dense_output), ("output", layer.bert_output)]
    )
    norm[1].LayerNorm.epsilon = 1e-3
    return f"{norm[0]}.LayerNorm", "norm-epsilon"


def plant_activation(layer, draw):
    import tensorflow as tf

    layer.intermediate.intermediate_act_fn = lambda x: tf.nn.gelu(x, approximate=True)
    return "intermediate.intermediate_act_fn", "activation-variant"


def plant_exchange(layer, draw):
    attention = layer.attention.self_attention
    attention.query, attention.key = attention.key, attention.query
    return "attention.self", "fused-order"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("plant", [plant_epsilon, plant_activation, plant_exchange])
def test_planted_faults_are_placed_and_explained(transformers_models, plant, seed):
    draw = random.Random(f"{plant.__name__} {seed}")
    ported = transformers_models.seeded(lambda: transformers_models.bert(layers=4), seed)
    number = draw.randrange(4)
    place, cause = plant(ported.port.bert.encoder.layer[number], draw)
    found = judge(ported, examples=4)
    assert found.verdict == "semantic", found.summary()
    assert found.culprit == f"encoder.layer.{number}.{place}", found.summary()
    assert found.cause == cause, found.summary()
