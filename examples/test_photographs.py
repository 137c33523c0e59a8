"""A residual network sees the same in two photographs, whatever computes it."""

from __future__ import annotations

import pytest

from pytest_fwcompare.networks import zoo


@pytest.mark.fwcompare
def test_residual_network_on_photographs(fwcompare_network, photographs):
    network = zoo.residual_network(size=48, classes=5)
    crops = photographs[:, :, 8:56]
    fwcompare_network(network, inputs={next(iter(network.inputs)): crops})


@pytest.mark.fwcompare
def test_residual_network_on_generated_images(fwcompare_network):
    fwcompare_network(zoo.residual_network(size=8, classes=5), examples=4)
