"""Down by strided convolutions and up again by transposed ones."""

from __future__ import annotations

import pytest

from pytest_fwcompare.networks import zoo


@pytest.mark.fwcompare
def test_autoencoder(fwcompare_network):
    fwcompare_network(zoo.autoencoder(size=8), examples=4)
