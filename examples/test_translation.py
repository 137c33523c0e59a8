"""A small translation transformer: equal scores, equal gradients, equal words."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.networks import zoo

WORDS = 20
START = 1


def network():
    return zoo.translation_transformer(WORDS, WORDS, features=8, hidden=12, layers=1)


@pytest.mark.fwcompare
def test_translation_transformer(fwcompare_network):
    described = network()
    mask = fwc.TensorSpec(("batch", "source_time"), "bool", kind="ragged")
    fwcompare_network(described, inputs={**described.inputs, "source_mask": mask}, examples=4)


@pytest.mark.fwcompare
def test_greedy_decoding_says_the_same_words_everywhere(fwcompare_build):
    rng = np.random.default_rng(0)
    source = rng.integers(2, WORDS, (3, 6))
    lengths = np.array([6, 4, 2])[:, None]
    mask = np.arange(6) < lengths
    said = {}
    for name, model in fwcompare_build(network()).items():
        run = fwc.as_function(model)
        target = np.full((3, 1), START)
        for _ in range(5):
            scores = run(source, target, mask)
            target = np.concatenate([target, scores[:, -1:].argmax(-1)], axis=1)
        said[name] = target.tolist()
    assert all(words == said["numpy"] for words in said.values()), said
