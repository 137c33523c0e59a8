"""Small random models of transformers: the torch class, the TensorFlow class, the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import transformers

from pytest_fwcompare import TensorSpec

WORDS = 31
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
}


class Ported(NamedTuple):
    """A reference, its port with other random weights, and what both are called with."""

    reference: Any
    port: Any
    inputs: Mapping[str, TensorSpec]


def tokens(first: int = 0, time: str = "time", **options: Any) -> TensorSpec:
    """Token numbers from `first` on."""
    return TensorSpec(("batch", time), "int64", low=first, high=WORDS, **options)


def bert(layers: int = 2, first: int = 1) -> Ported:
    config = transformers.BertConfig(
        vocab_size=WORDS, max_position_embeddings=20, **SMALL | {"num_hidden_layers": layers}
    )
    return Ported(
        transformers.BertModel(config).eval(),
        transformers.TFBertModel(config),
        {"input_ids": tokens(first)},
    )


def gpt2() -> Ported:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=20, n_embd=16, n_layer=2, n_head=2
    )
    return Ported(
        transformers.GPT2Model(config).eval(),
        transformers.TFGPT2Model(config),
        {"input_ids": tokens()},
    )


def t5() -> Ported:
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=40, num_layers=2, num_heads=2
    )
    return Ported(
        transformers.T5Model(config).eval(),
        transformers.TFT5Model(config),
        {
            "input_ids": tokens(),
            "decoder_input_ids": tokens(time="target", keyword=True),
        },
    )


def vit() -> Ported:
    config = transformers.ViTConfig(image_size=12, patch_size=4, **SMALL)
    return Ported(
        transformers.ViTModel(config).eval(),
        transformers.TFViTModel(config),
        {"pixel_values": TensorSpec(("batch", 3, 12, 12))},
    )


def resnet(activation: str = "relu") -> Ported:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[2, 1],
        layer_type="basic",
        hidden_act=activation,
    )
    return Ported(
        transformers.ResNetModel(config).eval(),
        transformers.TFResNetModel(config),
        {"pixel_values": TensorSpec(("batch", 3, "height", "width"))},
    )


def wav2vec2() -> Ported:
    config = transformers.Wav2Vec2Config(
        vocab_size=WORDS,
        conv_dim=(8, 8),
        conv_kernel=(5, 3),
        conv_stride=(3, 2),
        num_conv_pos_embeddings=5,
        num_conv_pos_embedding_groups=2,
        **SMALL,
    )
    return Ported(
        transformers.Wav2Vec2Model(config).eval(),
        transformers.TFWav2Vec2Model(config),
        {"input_values": TensorSpec(("batch", 47))},
    )


RIGHT: dict[str, Callable[[], Ported]] = {
    "bert": bert,
    "gpt2": gpt2,
    "t5": t5,
    "vit": vit,
    "resnet": resnet,
    "wav2vec2": wav2vec2,
}


def seeded(make: Callable[[], Ported], seed: int) -> Ported:
    """The same models each time; torch draws the reference's weights, TensorFlow the port's."""
    import tensorflow as tf

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tf.random.set_seed(seed + 1)
        return make()
