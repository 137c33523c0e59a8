"""The zoo: what its networks depend on, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.numpy import NumpyNetwork
from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks import zoo


def test_lenet_has_the_parameters_of_the_paper() -> None:
    count = sum(int(np.prod(spec.shape)) for spec in zoo.lenet().parameters().values())
    # 156 + 2416 + 48120 + 10164 + 850, with max pooling and full second convolution.
    assert count == 61706


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_transformer_sees_neither_the_future_nor_padding(norm) -> None:
    model = NumpyNetwork(zoo.translation_transformer(norm=norm, function="gelu"))
    generator = np.random.default_rng(0)
    source, target = generator.integers(1, 40, (2, 6)), generator.integers(1, 40, (2, 5))
    mask = np.arange(6) < np.array([[4], [6]])
    scores = model(source, target, mask)["scores"]
    assert scores.shape == (2, 5, 40)
    later, padded, seen = target.copy(), source.copy(), source.copy()
    later[:, 3] = (later[:, 3] + 1) % 40
    changed = model(source, later, mask)["scores"]
    np.testing.assert_array_equal(changed[:, :3], scores[:, :3])
    assert np.abs(changed[:, 3:] - scores[:, 3:]).min(axis=-1).max() > 0
    padded[0, 4:] = 7
    np.testing.assert_array_equal(model(padded, target, mask)["scores"][0], scores[0])
    seen[0, 3] = (seen[0, 3] + 1) % 40
    assert not np.allclose(model(seen, target, mask)["scores"][0], scores[0])


def test_multi_task_shares_its_reader() -> None:
    network = zoo.multi_task()
    assert [step.layer_name for step in network.nodes].count("reader") == 2
    assert list(network.outputs) == ["scores", "number"]


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_text_classifiers(cell) -> None:
    for bidirectional in (False, True):
        network = zoo.text_classifier(cell, units=5, bidirectional=bidirectional)
        assert network.outputs["output"].shape == ("batch", 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.text_classifier("cnn"), "cell is gru, lstm or rnn, got 'cnn'"),
        (lambda: zoo.translation_transformer(norm="no"), "norm is pre or post, got 'no'"),
        (
            lambda: zoo.translation_transformer(features=9),
            "features=9 is not a multiple of heads=2",
        ),
        (lambda: zoo.autoencoder(size=10), "size is a multiple of 4, got 10"),
        (lambda: zoo.lenet(size=8), "Conv2D 'conv2': a window covers 5 cells, but"),
    ],
)
def test_wrong_sizes(make, message) -> None:
    with pytest.raises(NetworkError, match=message):
        make()
