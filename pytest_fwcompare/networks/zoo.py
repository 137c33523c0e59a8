"""Small versions of well-known networks, described once; sizes are arguments."""

from __future__ import annotations

from typing import Literal

from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks.base import Layer, Node
from pytest_fwcompare.networks.graph import Graph, Input, Network, Sequential
from pytest_fwcompare.networks.layers import (
    GRU,
    LSTM,
    Activation,
    Add,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    MaxPool2D,
    MultiHeadAttention,
    Multiply,
    PositionalEmbedding,
    SimpleRNN,
)

__all__ = [
    "autoencoder",
    "lenet",
    "multi_task",
    "residual_network",
    "text_classifier",
    "translation_transformer",
]


def lenet(size: int = 28, channels: int = 1, classes: int = 10, width: int = 6) -> Network:
    """LeNet-5 with max pooling and relu (LeCun et al. 1998, Proc. IEEE 86(11)).

    Args:
        size: height and width of the image, at least 12.
        channels: features of the image.
        classes: number of scores.
        width: features of the first convolution.

    Returns:
        "x" (batch, size, size, channels) to "output" (batch, classes), scores.
    """
    layers = [
        Conv2D(width, 5, padding="same", name="conv1"),
        Activation("relu"),
        MaxPool2D(2),
        Conv2D(16 * width // 6, 5, name="conv2"),
        Activation("relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(20 * width, name="fc1"),
        Activation("relu"),
        Dense(14 * width, name="fc2"),
        Activation("relu"),
        Dense(classes, name="fc3"),
    ]
    return Sequential(layers, input_shape=(size, size, channels), name="lenet")


def residual_network(
    size: int = 16, channels: int = 3, classes: int = 10, width: int = 8, stages: int = 2
) -> Network:
    """Residual blocks, each stage at half the size and twice the width (arXiv:1512.03385).

    Args:
        size: height and width of the image.
        channels: features of the image.
        classes: number of scores.
        width: features of the first stage.
        stages: number of stages; all but the first begin with stride 2 and a 1x1 shortcut.

    Returns:
        "image" (batch, size, size, channels) to "scores" (batch, classes).
    """
    image = Input("image", (size, size, channels))
    x = Conv2D(width, 3, padding=1, use_bias=False, name="stem")(image)
    x = Activation("relu")(BatchNorm(name="stem_norm")(x))
    for stage in range(stages):
        filters = width * 2**stage
        x = _residual_block(x, f"block{stage + 1}", filters, 1 if stage == 0 else 2)
    scores = Dense(classes, name="head")(GlobalAveragePool()(x))
    return Graph([image], {"scores": scores}, name="residual_network")


def _residual_block(x: Node, name: str, filters: int, stride: int) -> Node:
    # Padding 1 on all sides as in the paper's code; "same" would shift the windows at stride 2.
    y = Conv2D(filters, 3, stride, padding=1, use_bias=False, name=f"{name}_conv1")(x)
    y = Activation("relu")(BatchNorm(name=f"{name}_norm1")(y))
    y = Conv2D(filters, 3, padding=1, use_bias=False, name=f"{name}_conv2")(y)
    y = BatchNorm(name=f"{name}_norm2")(y)
    if stride > 1:
        x = Conv2D(filters, 1, stride, use_bias=False, name=f"{name}_shortcut")(x)
        x = BatchNorm(name=f"{name}_shortcut_norm")(x)
    return Activation("relu")(Add()(x, y))


def text_classifier(
    cell: Literal["gru", "lstm", "rnn"] = "gru",
    vocabulary: int = 50,
    units: int = 16,
    classes: int = 4,
    bidirectional: bool = True,
) -> Network:
    """Embedding, two recurrent layers, scores from the last state.

    Args:
        cell: "gru", "lstm" or "rnn".
        vocabulary: number of tokens; token 0 is padding.
        units: size of the embedding and of each state.
        classes: number of scores.
        bidirectional: the first recurrent layer reads both ways.

    Returns:
        "tokens" (batch, time), integers, to "output" (batch, classes).
    """
    kinds = {"gru": GRU, "lstm": LSTM, "rnn": SimpleRNN}
    if cell not in kinds:
        raise NetworkError(f"text_classifier: cell is gru, lstm or rnn, got {cell!r}")
    sequence = kinds[cell](units, return_sequences=True)
    layers: list[Layer] = [
        Embedding(vocabulary, units, padding_index=0, name="embedding"),
        Bidirectional(sequence, name="both") if bidirectional else sequence,
        Dropout(0.1),
        kinds[cell](units, name="last"),
        Dense(classes, name="head"),
    ]
    return Sequential(
        layers,
        input_shape=("time",),
        input_dtype="int64",
        input_name="tokens",
        name="text_classifier",
        low=0,
        high=vocabulary,
    )


def translation_transformer(
    source_vocabulary: int = 40,
    target_vocabulary: int = 40,
    features: int = 16,
    heads: int = 2,
    layers: int = 2,
    hidden: int = 32,
    length: int = 32,
    norm: Literal["pre", "post"] = "pre",
    function: str = "relu",
) -> Network:
    """Encoder and decoder with cross attention (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        source_vocabulary: tokens of the source language.
        target_vocabulary: tokens of the target language.
        features: size of the embeddings; a multiple of heads.
        heads: of every attention.
        layers: of the encoder, and of the decoder.
        hidden: features between the two Dense layers of each block.
        length: longest sequence.
        norm: LayerNorm before each sublayer ("pre") or after its residual sum ("post", as in the
            paper).
        function: activation between the two Dense layers.

    Returns:
        "source" (batch, source_time) and "target" (batch, target_time), integers, and
        "source_mask" (batch, source_time), True for words, to "scores" (batch, target_time,
        target_vocabulary).
    """
    if norm not in ("pre", "post"):
        raise NetworkError(f"translation_transformer: norm is pre or post, got {norm!r}")
    if features % heads:
        raise NetworkError(
            f"translation_transformer: features={features} is not a multiple of heads={heads}"
        )
    source = Input("source", ("source_time",), "int64", low=0, high=source_vocabulary)
    target = Input("target", ("target_time",), "int64", low=0, high=target_vocabulary)
    mask = Input("source_mask", ("source_time",), "bool", kind="ragged")
    block = _Block(features, heads, hidden, norm, function)

    memory = Embedding(source_vocabulary, features, name="source_embedding")(source)
    memory = PositionalEmbedding(length, name="source_position")(memory)
    for number in range(layers):
        memory = block.encoder(memory, mask, f"encoder{number + 1}")
    x = Embedding(target_vocabulary, features, name="target_embedding")(target)
    x = PositionalEmbedding(length, name="target_position")(x)
    if norm == "pre":
        memory = LayerNorm(name="encoder_norm")(memory)
    for number in range(layers):
        x = block.decoder(x, memory, mask, f"decoder{number + 1}")
    if norm == "pre":
        x = LayerNorm(name="decoder_norm")(x)
    scores = Dense(target_vocabulary, name="head")(x)
    inputs = [source, target, mask]
    return Graph(inputs, {"scores": scores}, name="translation_transformer")


class _Block:
    """Blocks of a transformer; see `translation_transformer` for the arguments."""

    def __init__(self, features: int, heads: int, hidden: int, norm: str, function: str) -> None:
        self.features = features
        self.heads = heads
        self.hidden = hidden
        self.norm = norm
        self.function = function

    def encoder(self, x: Node, mask: Node, name: str) -> Node:
        """Self attention, then two Dense layers."""
        x = self._attend(x, None, mask, f"{name}_attention")
        return self._dense(x, name)

    def decoder(self, x: Node, memory: Node, mask: Node, name: str) -> Node:
        """Causal self attention, attention to the memory, then two Dense layers."""
        x = self._attend(x, None, None, f"{name}_attention", causal=True)
        x = self._attend(x, memory, mask, f"{name}_cross")
        return self._dense(x, name)

    def _attend(
        self, x: Node, memory: Node | None, mask: Node | None, name: str, causal: bool = False
    ) -> Node:
        size = self.features // self.heads
        attention = MultiHeadAttention(self.heads, size, causal=causal, name=name)
        norm = LayerNorm(name=f"{name}_norm")
        if self.norm == "pre":
            return Add()(x, attention(norm(x), memory, mask=mask))
        return norm(Add()(x, attention(x, memory, mask=mask)))

    def _dense(self, x: Node, name: str) -> Node:
        norm = LayerNorm(name=f"{name}_dense_norm")
        y = Dense(self.hidden, name=f"{name}_dense1")(norm(x) if self.norm == "pre" else x)
        y = Dense(self.features, name=f"{name}_dense2")(Activation(self.function)(y))
        return Add()(x, y) if self.norm == "pre" else norm(Add()(x, y))


def autoencoder(size: int = 16, channels: int = 1, width: int = 4, code: int = 8) -> Network:
    """Convolutions down to a code, transposed convolutions back up.

    Args:
        size: height and width of the image, a multiple of 4.
        channels: features of the image.
        width: features of the first convolution.
        code: features of the code at each place.

    Returns:
        "image" (batch, size, size, channels) to "code" (batch, size / 4, size / 4, code) and
        "image_again", as "image".
    """
    if size % 4:
        raise NetworkError(f"autoencoder: size is a multiple of 4, got {size}")
    image = Input("image", (size, size, channels))
    x = Conv2D(width, 3, 2, padding="same", name="down1")(image)
    x = Activation("silu")(x)
    x = Conv2D(code, 3, 2, padding="same", name="down2")(x)
    middle = Activation("tanh")(x)
    x = ConvTranspose2D(width, 4, 2, padding=1, name="up1")(middle)
    x = Activation("silu")(x)
    x = ConvTranspose2D(channels, 3, 2, padding=1, output_padding=1, name="up2")(x)
    again = Activation("sigmoid")(x)
    return Graph([image], {"code": middle, "image_again": again}, name="autoencoder")


def multi_task(
    size: int = 12, channels: int = 3, facts: int = 5, vocabulary: int = 30, classes: int = 4
) -> Network:
    """An image, a row of facts and a text, joined; scores and a number come out.

    The text and its title go through the same embedding and recurrent layer (shared parameters).

    Args:
        size: height and width of the image.
        channels: features of the image.
        facts: length of the row of facts.
        vocabulary: tokens of the texts.
        classes: number of scores.

    Returns:
        "image" (batch, size, size, channels), "facts" (batch, facts), "text" (batch, time) and
        "title" (batch, title_time), integers, to "scores" (batch, classes), "number" (batch, 1).
    """
    image = Input("image", (size, size, channels))
    row = Input("facts", (facts,))
    text = Input("text", ("time",), "int64", low=0, high=vocabulary)
    title = Input("title", ("title_time",), "int64", low=0, high=vocabulary)
    embedding, reader = Embedding(vocabulary, 8, name="embedding"), LSTM(8, name="reader")
    seen = Activation("relu")(Conv2D(8, 3, 2, padding="same", name="eye")(image))
    seen = GlobalAveragePool()(seen)
    read = Multiply()(reader(embedding(text)), reader(embedding(title)))
    known = Activation("gelu")(Dense(8, name="known")(row))
    joined = LayerNorm(name="norm")(Concatenate()(seen, known, read))
    scores = Dense(classes, name="scores_head")(joined)
    number = Activation("softplus")(Dense(1, name="number_head")(joined))
    inputs = [image, row, text, title]
    return Graph(inputs, {"scores": scores, "number": number}, name="multi_task")
