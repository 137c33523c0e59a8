"""Every right port of the corpus is mapped with no help, as its authors copied it by hand."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pytest_fwcompare.backends import registry
from pytest_fwcompare.weights import Evidence, Mapping, automatic_mapping

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "equinox")
FAMILIES = (
    "lenet", "mlp_norm", "resnet_block", "lstm_classifier", "transformer_encoder",
    "conv_autoencoder", "tcn", "mixer", "seq2seq_attention", "deep_tanh", "ill_conditioned",
    "output_scales", "ties", "saturated_softmax", "long_mean",
)  # fmt: skip


def adopt(model: Any, framework: str) -> Any:
    backend = registry.backend(framework)
    return backend.adopt(model, dtype="float32", device="cpu", mode="eager", own=True)


def wear_in(model: Any) -> None:
    """Random values everywhere, so that nothing agrees by being zero or one."""
    import torch

    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_right_ports_are_mapped_as_they_were_copied(ports: ModuleType, family: str) -> None:
    for framework in FRAMEWORKS:
        pytest.importorskip(framework)
    for case in ports.load_family(family):
        reference, port = case.make_reference("float32"), case.make_port("float32")
        wear_in(reference)
        case.copy_weights(reference, port)
        sides = [adopt(reference, case.reference_framework), adopt(port, case.port_framework)]
        values, truth = (side.read() for side in sides)

        def right(mapping: Mapping, values=values, truth=truth) -> dict[str, bool]:
            made = mapping.port_values(values)
            return {
                name: name in made and np.allclose(made[name], value, rtol=1e-6)
                for name, value in truth.items()
            }

        def evidence(mapping: Mapping, right=right) -> Evidence:
            good = right(mapping).values()
            return Evidence(sum(good) / len(good), 0.0 if all(good) else 1.0)

        mapping = automatic_mapping(
            sides[0].parameters(),
            sides[1].parameters(),
            reference_framework=case.reference_framework,
            port_framework=case.port_framework,
            evidence=evidence,
        )
        assert all(right(mapping).values()), (case.name, right(mapping))
        assert not mapping.unmatched_reference
        assert not mapping.unmatched_port
