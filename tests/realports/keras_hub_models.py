"""Small random backbones of keras-hub, and the torch models of transformers that they port."""

from __future__ import annotations

from collections.abc import Callable

import keras_hub
import transformers
from realports.transformers_models import SMALL, WORDS, Ported, tokens

from pytest_fwcompare import TensorSpec

KERAS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}


def mask() -> TensorSpec:
    return TensorSpec(("batch", "time"), "bool", kind="ragged", keyword=True)


def bert(activation: str = "gelu_new") -> Ported:
    config = transformers.BertConfig(
        vocab_size=WORDS, max_position_embeddings=20, hidden_act=activation, **SMALL
    )
    port = keras_hub.models.BertBackbone(
        vocabulary_size=WORDS, intermediate_dim=40, max_sequence_length=20, **KERAS
    )
    segments = TensorSpec(("batch", "time"), "int64", low=0, high=2, keyword=True)
    # The order in which the backbone defines its inputs.
    inputs = {"input_ids": tokens(1), "token_type_ids": segments, "attention_mask": mask()}
    return Ported(transformers.BertModel(config).eval(), port, inputs)


def gpt2() -> Ported:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=20, n_embd=16, n_layer=2, n_head=2
    )
    port = keras_hub.models.GPT2Backbone(
        vocabulary_size=WORDS, intermediate_dim=64, max_sequence_length=20, **KERAS
    )
    inputs = {"input_ids": tokens(), "attention_mask": mask()}
    return Ported(transformers.GPT2Model(config).eval(), port, inputs)


def llama(epsilon: float = 1e-4) -> Ported:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=20,
        rms_norm_eps=epsilon,
        pad_token_id=None,
    )
    port = keras_hub.models.LlamaBackbone(
        vocabulary_size=WORDS,
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=40,
        layer_norm_epsilon=epsilon,
    )
    inputs = {"input_ids": tokens(), "attention_mask": mask()}
    return Ported(transformers.LlamaModel(config).eval(), port, inputs)


def vit(epsilon: float = 1e-4) -> Ported:
    config = transformers.ViTConfig(image_size=12, patch_size=4, layer_norm_eps=epsilon, **SMALL)
    port = keras_hub.models.ViTBackbone(
        image_shape=(12, 12, 3),
        patch_size=4,
        mlp_dim=40,
        layer_norm_epsilon=epsilon,
        dropout_rate=0.0,
        attention_dropout=0.0,
        **KERAS,
    )
    images = TensorSpec(("batch", 3, 12, 12), axes="NCHW", port_axes="NHWC")
    reference = transformers.ViTModel(config, add_pooling_layer=False).eval()
    return Ported(reference, port, {"pixel_values": images})


RIGHT: dict[str, Callable[[], Ported]] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "vit": vit,
}
