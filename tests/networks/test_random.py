"""Random parameters: nothing at its default, all exact in float32, all in range."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.networks import (
    BatchNorm,
    Conv1D,
    Embedding,
    PReLU,
    Sequential,
    random_parameters,
    zoo,
)


@pytest.fixture(scope="module")
def network():
    layers = [Embedding(300, 40), Conv1D(50, 5), PReLU(), BatchNorm()]
    return Sequential(layers, input_shape=("time",), input_dtype="int64")


def test_values_are_in_range_and_exact(network) -> None:
    values = random_parameters(network, 0)
    assert list(values) == list(network.parameters())
    for name, spec in network.parameters().items():
        value = values[name]
        assert value.shape == spec.shape
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, value.astype(np.float32))
        assert len(np.unique(value)) > 0.9 * value.size
    # fan in 5 * 40 = 200: unit-scale rows.
    assert abs(values["conv1d.kernel"].std() * 200**0.5 - 1) < 0.03
    assert abs(values["embedding.table"].std() - 1) < 0.05
    for name, low, high in (
        ("batch_norm.scale", 0.5, 1.5),
        ("batch_norm.variance", 0.3, 1.5),
        ("prelu.slope", 0.1, 0.4),
    ):
        assert low <= values[name].min() < values[name].max() <= high
    for name in ("conv1d.bias", "batch_norm.shift", "batch_norm.mean"):
        assert 0.15 < values[name].std() < 0.45


def test_a_seed_is_a_network(network) -> None:
    first, again, other = (random_parameters(network, seed) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize("name", zoo.__all__)
def test_networks_stay_well_conditioned(name: str) -> None:
    from pytest_fwcompare.backends.numpy import NumpyNetwork
    from pytest_fwcompare.networks.sizes import resolve

    network = getattr(zoo, name)()
    model = NumpyNetwork(network, random_parameters(network, 3), dtype="float64")
    generator = np.random.default_rng(0)
    free = {"batch": 3, "time": 6, "title_time": 4, "source_time": 5, "target_time": 7}
    inputs = {}
    for key, spec in network.inputs.items():
        shape = resolve(spec.shape, free)
        inputs[key] = {
            "float32": lambda s=shape: generator.normal(size=s),
            "int64": lambda s=shape, high=spec.high: generator.integers(0, int(high), s),
            "bool": lambda s=shape: np.arange(s[1]) < np.array([[5], [3], [1]]),
        }[spec.dtype]()
    outputs = model(**inputs)
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    for key, step in network.outputs.items():
        assert outputs[key].shape == resolve(step.shape, free)
        assert 0.005 < outputs[key].std() < 20
