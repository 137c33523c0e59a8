from __future__ import annotations

import pytest

from pytest_fwcompare.weights.words import (
    Vocabulary,
    ranked_numbers,
    split,
    without_counters,
    words,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.layer.3.attention.self.query", ("encoder", "layer", "3", "attention", "self",
                                                  "query")),
        ("tf_bert/encoder/layer_._0/LayerNorm/gamma:0", ("tf", "bert", "encoder", "layer", "0",
                                                         "layernorm", "gamma", "0")),
        ("att/q_proj", ("att", "qproj")),
        ("self_attention_layer_norm", ("self", "attention", "layernorm")),
        ("conv2d_12/kernel", ("conv2d", "12", "kernel")),
        ("h0Proj", ("h", "0", "proj")),
    ],
)  # fmt: skip
def test_names_are_split(name: str, expected: tuple[str, ...]) -> None:
    assert split(name) == expected


def test_synonyms_are_one_word() -> None:
    assert words("att.to_q") == words("attention/query") == ("attention", "query")
    assert words("ln.weight") == words("layer_norm/gamma") == ("norm",)


def test_numbers_are_ranks_among_siblings() -> None:
    assert ranked_numbers(["f.0", "f.3", "f.10"]) == [(0,), (1,), (2,)]
    assert ranked_numbers(["dense", "dense_1", "dense_2"]) == [(0,), (1,), (2,)]
    assert ranked_numbers(["0", "2", "head"]) == [(1,), (2,), (0,)]
    assert ranked_numbers(["net.1.conv_a", "net.1.conv_b", "net.4.conv_a"]) == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]


def test_rare_words_and_depth_tell_most() -> None:
    sides = [["enc.0.query", "enc.0.key", "enc.1.query"], ["e/0/q", "e/0/k", "e/1/q"]]
    book = Vocabulary(sides)
    same = book.likeness("enc.0.query", "e/0/q", (0,), (0,))
    assert same > book.likeness("enc.0.query", "e/1/q", (0,), (1,))
    assert same > book.likeness("enc.0.query", "e/0/k", (0,), (0,))
    assert book.likeness("x.y", "x.y") == 1.0
    assert book.likeness("foo", "bar") == 0.0


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("conv2d_12", "Conv2D", ("conv2d", ("conv2d", 12))),
        ("dense", "Dense", ("dense", ("dense", 0))),
        ("functional_2/dense_3", "Dense", ("functional/dense", ("dense", 3))),
        ("multi_head_attention_2/query", "EinsumDense",
         ("multi_head_attention/query", ("multi_head_attention", 2))),
        ("lstm_1/lstm_cell", "LSTMCell", ("lstm/lstm_cell", ("lstm_cell", 0))),
        ("block_2/digit_3", "Dense", ("block_2/digit_3", None)),
        ("dense_head", "Dense", ("dense_head", None)),
    ],
)  # fmt: skip
def test_numbers_that_keras_gave_are_told_from_those_of_people(path, kind, expected) -> None:
    assert without_counters(path, kind) == expected
