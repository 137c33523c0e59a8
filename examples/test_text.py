"""A recurrent text classifier: gate orders, both directions, padding, random biases."""

from __future__ import annotations

import pytest

from pytest_fwcompare.networks import zoo


@pytest.mark.fwcompare
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_text_classifier(fwcompare_network, cell):
    found = fwcompare_network(zoo.text_classifier(cell, units=6), examples=4)
    # The row of the padding token gets no gradient anywhere, so nothing else is uncovered.
    assert found.controls.uncovered == ()
