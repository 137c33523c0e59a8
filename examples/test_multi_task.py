"""Several inputs, shared layers, several outputs: an image, facts and two texts, joined."""

from __future__ import annotations

import pytest

from pytest_fwcompare.networks import zoo


@pytest.mark.fwcompare
def test_multi_task(fwcompare_network):
    found = fwcompare_network(zoo.multi_task(size=8), examples=4)
    assert {row.name for row in found.tensors if row.kind == "output"} == {
        "output scores",
        "output number",
    }
