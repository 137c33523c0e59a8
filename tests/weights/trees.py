"""Parameter lists as sides would give them, written by hand, and a way to check a mapping.

Each list is made from (name, shape, kind); the layer is the name without its last word.
"""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Parameter

BUFFERS = ("running_mean", "running_var", "moving_mean", "moving_variance", "position_ids")


def parameter(name: str, shape: tuple[int, ...], kind: str = "", **options: object) -> Parameter:
    separator = "/" if "/" in name else "."
    layer, _, role = name.removesuffix(":0").rpartition(separator)
    return Parameter(
        name, shape, "float32", role not in BUFFERS, layer, kind, role, options=options
    )


def distinct(parameters: list[Parameter]) -> dict[str, np.ndarray]:
    """Values that are all different."""
    total, values = 1, {}
    for one in parameters:
        size = int(np.prod(one.shape))
        values[one.name] = np.arange(total, total + size, dtype=np.float64).reshape(one.shape)
        total += size
    return values


def bert_torch(layers: int = 2, width: int = 8, vocabulary: int = 30) -> list[Parameter]:
    """BertModel as Hugging Face names it in torch."""
    made = [
        parameter("embeddings.word_embeddings.weight", (vocabulary, width), "Embedding"),
        parameter("embeddings.position_embeddings.weight", (16, width), "Embedding"),
        parameter("embeddings.token_type_embeddings.weight", (2, width), "Embedding"),
        *norm_torch("embeddings.LayerNorm", width),
    ]
    for layer in range(layers):
        path = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            made += linear_torch(f"{path}.attention.self.{part}", width, width)
        made += linear_torch(f"{path}.attention.output.dense", width, width)
        made += norm_torch(f"{path}.attention.output.LayerNorm", width)
        made += linear_torch(f"{path}.intermediate.dense", width, 4 * width)
        made += linear_torch(f"{path}.output.dense", 4 * width, width)
        made += norm_torch(f"{path}.output.LayerNorm", width)
    return [*made, *linear_torch("pooler.dense", width, width)]


def bert_tensorflow(layers: int = 2, width: int = 8, vocabulary: int = 30) -> list[Parameter]:
    """TFBertModel as Hugging Face names it."""
    top = "tf_bert_model/bert"
    made = [
        parameter(f"{top}/embeddings/word_embeddings/weight:0", (vocabulary, width)),
        parameter(f"{top}/embeddings/token_type_embeddings/embeddings:0", (2, width)),
        parameter(f"{top}/embeddings/position_embeddings/embeddings:0", (16, width)),
        *norm_keras(f"{top}/embeddings/LayerNorm", width),
    ]
    for layer in range(layers):
        path = f"{top}/encoder/layer_._{layer}"
        for part in ("query", "key", "value"):
            made += dense_keras(f"{path}/attention/self/{part}", width, width)
        made += dense_keras(f"{path}/attention/output/dense", width, width)
        made += norm_keras(f"{path}/attention/output/LayerNorm", width)
        made += dense_keras(f"{path}/intermediate/dense", width, 4 * width)
        made += dense_keras(f"{path}/output/dense", 4 * width, width)
        made += norm_keras(f"{path}/output/LayerNorm", width)
    return [*made, *dense_keras(f"{top}/pooler/dense", width, width)]


def bert_keras_hub(layers: int = 2, width: int = 8, vocabulary: int = 30) -> list[Parameter]:
    """BertBackbone as keras-hub names it: heads are axes, norms come after both projections."""
    made = [
        parameter("token_embedding/embeddings", (vocabulary, width), "ReversibleEmbedding"),
        parameter("position_embedding/embeddings", (16, width), "PositionEmbedding"),
        parameter("segment_embedding/embeddings", (2, width), "Embedding"),
        *norm_keras("embeddings_layer_norm", width),
    ]
    heads, size = 2, width // 2
    for layer in range(layers):
        path = f"transformer_layer_{layer}"
        attention = f"{path}/self_attention_layer"
        for part in ("query", "key", "value"):
            made += [
                parameter(f"{attention}/{part}/kernel", (width, heads, size), "EinsumDense",
                          equation="abc,cde->abde"),
                parameter(f"{attention}/{part}/bias", (heads, size), "EinsumDense",
                          equation="abc,cde->abde"),
            ]  # fmt: skip
        made += [
            parameter(f"{attention}/attention_output/kernel", (heads, size, width), "EinsumDense",
                      equation="abcd,cde->abe"),
            parameter(f"{attention}/attention_output/bias", (width,), "EinsumDense",
                      equation="abcd,cde->abe"),
        ]  # fmt: skip
        made += norm_keras(f"{path}/self_attention_layer_norm", width)
        made += dense_keras(f"{path}/feedforward_intermediate_dense", width, 4 * width)
        made += dense_keras(f"{path}/feedforward_output_dense", 4 * width, width)
        made += norm_keras(f"{path}/feedforward_layer_norm", width)
    return [*made, *dense_keras("pooled_dense", width, width)]


def linear_torch(path: str, inputs: int, outputs: int, bias: bool = True) -> list[Parameter]:
    made = [parameter(f"{path}.weight", (outputs, inputs), "Linear")]
    return [*made, parameter(f"{path}.bias", (outputs,), "Linear")] if bias else made


def norm_torch(path: str, width: int) -> list[Parameter]:
    return [parameter(f"{path}.{role}", (width,), "LayerNorm") for role in ("weight", "bias")]


def dense_keras(path: str, inputs: int, outputs: int) -> list[Parameter]:
    return [
        parameter(f"{path}/kernel", (inputs, outputs), "Dense"),
        parameter(f"{path}/bias", (outputs,), "Dense"),
    ]


def norm_keras(path: str, width: int) -> list[Parameter]:
    return [
        parameter(f"{path}/{role}", (width,), "LayerNormalization") for role in ("gamma", "beta")
    ]
