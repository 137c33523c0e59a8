"""A LeNet trained on handwritten digits in torch is the same classifier in every framework."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.networks import zoo

torch = pytest.importorskip("torch")

IMAGES = fwc.TensorSpec(("batch", 1, 16, 16), axes="NCHW", port_axes="NHWC", low=0, high=1)


@pytest.fixture(scope="module")
def models(fwcompare_build, digits):
    """The network in every framework; the torch one trained to recognise digits."""
    built = fwcompare_build(zoo.lenet(size=16))
    if "torch" not in built:
        pytest.skip("the network is trained in torch, which was not selected")
    images, labels = digits
    inputs = torch.tensor(images[:1300].transpose(0, 3, 1, 2))
    targets = torch.tensor(labels[:1300])
    model = built["torch"].train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        for rows in torch.randperm(len(inputs), generator=generator).split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
    model.eval()
    return built


def test_the_trained_network_reads_digits(models, digits):
    images, labels = digits
    with torch.no_grad():
        scores = models["torch"](torch.tensor(images[1300:].transpose(0, 3, 1, 2)))
    accuracy = float((scores.argmax(1).numpy() == labels[1300:]).mean())
    assert accuracy > 0.95


@pytest.mark.fwcompare
@pytest.mark.parametrize("framework", ["numpy", "tensorflow", "keras", "jax"])
def test_every_framework_computes_the_trained_network(framework, models, digits, fwcompare_port):
    if framework not in models:
        pytest.skip(f"{framework} was not selected or is not installed")
    trained, port = models["torch"], models[framework]
    generated = fwcompare_port(trained, port, inputs={"images": IMAGES}, examples=6)
    assert generated.controls.caught == len(generated.controls.tried)
    real = digits[0][1300:1316].transpose(0, 3, 1, 2)
    seen = fwc.TensorSpec(real.shape, axes="NCHW", port_axes="NHWC", values=real)
    fwcompare_port(trained, port, inputs={"images": seen})


@pytest.mark.fwcompare
def test_lenet(fwcompare_network):
    """The description itself, in each framework, against the NumPy float64 reference."""
    found = fwcompare_network(zoo.lenet(size=16), examples=6)
    assert np.isfinite(found.gap)
