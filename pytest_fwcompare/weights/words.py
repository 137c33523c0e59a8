"""Names of parameters as words: parts, synonyms, depth numbers, and how alike two names are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

SYNONYMS = (
    ("query", "q", "qproj", "toq", "wq"),
    ("key", "k", "kproj", "tok", "wk"),
    ("value", "v", "vproj", "tov", "wv"),
    ("attention", "attn", "att", "mha", "selfattn"),
    ("norm", "ln", "layernorm", "normalization", "layernormalization", "bn", "batchnorm"),
    ("embedding", "embeddings", "embed", "embedder", "wte", "lookup"),
    ("position", "positions", "positional", "pos", "wpe"),
    ("token", "tokens", "word", "words", "vocab"),
    ("encoder", "enc"),
    ("decoder", "dec"),
    ("convolution", "conv", "conv1d", "conv2d", "conv3d", "cnn"),
    ("linear", "dense", "fc", "proj", "projection", "project"),
    ("mlp", "ffn", "ff", "feedforward", "intermediate"),
    ("expand", "up", "widen", "wi", "intermediate"),
    ("contract", "down", "narrow", "wo"),
    ("forward", "forwards", "fw", "fwd"),
    ("backward", "backwards", "bw", "bwd", "reverse"),
    ("shortcut", "skip", "downsample", "residual", "identity"),
    ("head", "classifier", "logits", "scores", "predictions", "readout"),
    ("output", "out", "o", "outproj"),
    ("input", "in", "i", "inputs", "ih"),
    ("block", "blocks", "layer", "layers", "stage", "stages", "unit", "units", "h", "stack"),
    ("source", "src"),
    ("target", "tgt", "trg"),
    ("self", "own"),
    ("cross", "encdec", "crossattention", "encoderattn"),
    ("mean", "average", "mu"),
    ("variance", "var"),
    ("recurrent", "hh", "hidden", "state"),
    ("shared", "tied"),
    ("first", "a"),
    ("second", "b"),
    ("patch", "patches"),
    ("final", "last"),
)
"""Words that library authors use for one another. The first of a row stands for all."""

COMMON = {word: row[0] for row in reversed(SYNONYMS) for word in row}

ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "a": 0, "b": 1, "c": 2, "d": 3}
"""Words that number their siblings (conv_a, conv_b; first, second)."""

JOINED = re.compile(
    r"(layer_?norm(?:alization)?|batch_?norm(?:alization)?|feed_?forward|self_?attn"
    r"|encoder_?attn|conv[123]d|[qkvo]_proj|to_[qkv]|out_proj)",
    re.IGNORECASE,
)
"""Words of two parts that mean one thing."""

ROLE_WORDS = {
    "weight", "weights", "kernel", "kernels", "filter", "filters", "bias", "biases", "gamma",
    "beta", "scale", "shift", "w",
}  # fmt: skip
"""Words that say which parameter of a layer it is, not which layer."""


@cache
def split(name: str) -> tuple[str, ...]:
    """Lower-case words and numbers of a name, in order.

    "encoder.layer.3.selfAttn" is ("encoder", "layer", "3", "selfattn").
    """
    found: list[str] = []
    for part in re.split(r"[./:\[\]' _-]+", JOINED.sub(lambda m: m[0].replace("_", ""), name)):
        for word in JOINED.split(part):
            if JOINED.fullmatch(word or ""):
                found.append(word.lower())
            else:
                pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", word)
                found.extend(piece.lower() for piece in pieces)
    return tuple(found)


AUTOMATIC = re.compile(
    r"sequential|functional|model|bidirectional|time_distributed|multi_head_attention"
    r"|grouped_query_attention|((forward|backward)_)?(lstm|gru|simple_rnn|rnn)"
)
"""What Keras calls models, and layers made of others, that nobody named."""


@cache
def without_counters(path: str, kind: str) -> tuple[str, tuple[str, int] | None]:
    """A Keras layer's path without the numbers that Keras gave it, and the last of those.

    They count the layers of one class through the whole process, where the numbers that a person
    writes count blocks: "conv2d_1" is the second convolution and not that of the second block.

    Args:
        path: "functional_2/conv2d_1".
        kind: class name of the layer: "Conv2D".

    Returns:
        "functional/conv2d", and ("conv2d", 1): the second one that was made; None if somebody
        named the layer.
    """
    parts, counted = re.split(r"([./])", path), None
    for place, part in enumerate(parts):
        stem = re.sub(r"_\d+$", "", part)
        if AUTOMATIC.fullmatch(stem) or (
            place == len(parts) - 1 and stem.replace("_", "") == kind.lower()
        ):
            parts[place], counted = stem, (stem, int(part[len(stem) + 1 :] or 0))
    return "".join(parts), counted


@cache
def words(name: str) -> tuple[str, ...]:
    """Words that say which layer, synonyms made one, without numbers and role words."""
    return tuple(
        COMMON.get(word, word)
        for word in split(name)
        if not word.isdigit() and word not in ROLE_WORDS
    )


@cache
def numbers(name: str) -> tuple[int, ...]:
    """Depth numbers of a name, in order; ordinal words count."""
    found = []
    for word in split(name):
        if word.isdigit():
            found.append(int(word))
        elif word in ORDINALS and word not in ROLE_WORDS:
            found.append(ORDINALS[word])
    return tuple(found)


@cache
def template(name: str) -> str:
    """The name with all numbers made equal: layers of one kind share it."""
    return re.sub(r"\d+", "#", name)


def ranked_numbers(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Numbers of each name as ranks among names that are alike up to that number.

    A number that never changes ("t5") says nothing and is left out.

    "features.0" and "features.3" have ranks 0 and 1, and so have "conv2d" and "conv2d_1".
    """
    tokens = [split(name) for name in names]
    places: dict[tuple[str, ...], set[int]] = {}
    for parts in tokens:
        for place, part in enumerate(parts):
            if part.isdigit():
                places.setdefault(parts[:place], set()).add(int(part))
    for parts in tokens:
        for place in range(len(parts) + 1):
            follows = parts[place] if place < len(parts) else ""
            if parts[:place] in places and not follows.isdigit():
                places[parts[:place]].add(-1)
    ranks = {
        prefix: {number: rank for rank, number in enumerate(sorted(found))}
        for prefix, found in places.items()
        if len(found) > 1
    }
    return [_ranks(parts, ranks) for parts in tokens]


def _ranks(
    parts: tuple[str, ...], ranks: dict[tuple[str, ...], dict[int, int]]
) -> tuple[int, ...]:
    """Ranks of one name's numbers; -1 stands for a number that is left out."""
    found = []
    for place in range(len(parts) + 1):
        word = parts[place] if place < len(parts) else ""
        if parts[:place] in ranks:
            found.append(ranks[parts[:place]][int(word) if word.isdigit() else -1])
        if word in ORDINALS and word not in ROLE_WORDS:
            found.append(ORDINALS[word])
    return tuple(found)


def agree(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Share of equal numbers, 0 to 1, read from the left: the first counts the layers."""
    length = min(len(one), len(other))
    equal = sum(a == b for a, b in zip(one, other, strict=False))
    return equal / length - 0.1 * (len(one) != len(other)) if equal else 0.0


class Vocabulary:
    """Weighs words by how few names of both sides have them, so that rare words tell most."""

    def __init__(self, sides: Iterable[Sequence[str]]) -> None:
        self.weights: dict[str, float] = {}
        counts = [Counter(w for name in names for w in set(words(name))) for names in sides]
        for word in {word for count in counts for word in count}:
            self.weights[word] = 1.0 / max(1.0, max(count[word] for count in counts) ** 0.5)

    def likeness(
        self,
        one: str,
        other: str,
        one_numbers: tuple[int, ...] = (),
        other_numbers: tuple[int, ...] = (),
    ) -> float:
        """0 (nothing in common) to 1 (the same words and numbers)."""
        first, second = set(words(one)), set(words(other))
        shared = sum(self.weights.get(word, 1.0) for word in first & second)
        total = sum(self.weights.get(word, 1.0) for word in first | second)
        if one_numbers and other_numbers:
            agreement = agree(one_numbers, other_numbers)
            # A number says as much as one fairly rare word.
            shared, total = shared + 0.4 * agreement, total + 0.4
        return shared / total if total else 0.0
