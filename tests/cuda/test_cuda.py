"""What only a GPU can show: `make test-cuda`. Needs neither network nor TensorFlow.

`FWCOMPARE_CUDA_TESTS_ON=cpu make test-cuda` and `=second` are dry runs; see `conftest.py`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends import registry
from pytest_fwcompare.networks import zoo
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.timing.sides import time_network

pytestmark = pytest.mark.cuda

ON = os.environ.get("FWCOMPARE_CUDA_TESTS_ON", "cuda")
ON_CPU = ON == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
only_gpu = pytest.mark.skipif(ON != "cuda", reason="only a GPU can show it")

EXAMPLES = 6 if ON == "cuda" else 2
"""In a dry run most of the time is spent on compiling, for each example's sizes anew."""

NETWORKS = {
    "lenet": lambda: zoo.lenet(size=16),
    "residual": lambda: zoo.residual_network(size=8, classes=5),
    "text_classifier": lambda: zoo.text_classifier("lstm", units=6),
    "transformer": lambda: zoo.translation_transformer(20, 20, features=8, hidden=12, layers=1),
}
INPUTS = {"x": fwc.TensorSpec(("batch", 64))}


def lacks_dtype(framework, dtype):
    if dtype not in registry.backend(framework).dtypes:
        pytest.skip(f"{framework} has no {dtype}")


def judged(network, framework, **keywords):
    sides = InFramework(network, "numpy"), InFramework(network, framework)
    axes = {"device": DEVICE, "examples": EXAMPLES} | keywords
    return fwc.compare(*sides, inputs=network.inputs, **axes)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_described_networks_on_the_gpu(framework, name, dtype):
    lacks_dtype(framework, dtype)
    if "@" in framework and name != "lenet":
        pytest.skip("a worker computes what the process does: one network shows it")
    found = judged(NETWORKS[name](), framework, dtype=dtype)
    if found.unsupported:
        pytest.skip(" ".join(found.message.split()))
    assert found.verdict == "equivalent", found.summary()


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_modes_on_the_gpu(framework, mode):
    if mode not in registry.backend(framework).modes:
        pytest.skip(f"{framework} has no mode {mode}")
    found = judged(NETWORKS["lenet"](), framework, mode=mode, examples=EXAMPLES // 2)
    if found.unsupported:
        pytest.skip(" ".join(found.message.split()))
    assert found.verdict == "equivalent", found.summary()


@pytest.mark.parametrize("device", ["cpu/cuda", "cuda/cpu", "cuda:0/cuda:0"])
def test_sides_on_different_devices(gpu_torch, device):
    if ON_CPU:
        device = "cpu/cpu"
    nn = gpu_torch.nn
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.GELU())
    found = fwc.compare(model, model, inputs=INPUTS, device=device, examples=6)
    assert found.verdict == "equivalent", found.summary()
    assert found.device == device


def test_a_fault_is_found_on_the_gpu(gpu_torch):
    nn = gpu_torch.nn
    right = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32))
    wrong = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32, eps=1e-3))
    found = fwc.compare(right, wrong, inputs=INPUTS, device=DEVICE)
    assert (found.verdict, found.cause) == ("semantic", "norm-epsilon")


def test_torch_against_jax_on_the_gpu(gpu_torch):
    backend = registry.backend("jax")
    if backend.unavailable() or not (ON_CPU or "cuda:0" in backend.device_names()):
        pytest.skip("jax sees no CUDA device")
    network = NETWORKS["residual"]()
    found = fwc.compare(
        InFramework(network, "torch"),
        InFramework(network, "jax"),
        inputs=network.inputs,
        device=DEVICE,
        examples=EXAMPLES,
    )
    assert found.verdict == "equivalent", found.summary()


def test_recurrent_layers_are_taken_back_in_inference(gpu_torch):
    """cuDNN refuses that ("cudnn RNN backward can only be called in training mode")."""
    nn = gpu_torch.nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 4, num_layers=2, dropout=0.5, bidirectional=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    model = Tagger().eval()
    inputs = {"x": fwc.TensorSpec(("time", 2, 5))}
    found = fwc.compare(model, model, inputs=inputs, device=DEVICE, examples=EXAMPLES)
    assert found.verdict == "equivalent", found.summary()
    assert not model.rnn.training
    assert model.rnn.dropout == 0.5


@only_gpu
def test_random_numbers_of_the_gpu_are_noticed(gpu_torch):
    nn = gpu_torch.nn
    right, wrong = nn.Sequential(nn.Linear(64, 8)), nn.Sequential(nn.Linear(64, 8))

    class Noisy(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, True)

    wrong.append(Noisy())
    before = gpu_torch.cuda.get_rng_state()
    found = fwc.compare(right, wrong, inputs=INPUTS, device="cuda", examples=EXAMPLES)
    assert (found.verdict, found.cause) == ("semantic", "dropout")
    assert bool((gpu_torch.cuda.get_rng_state() == before).all())


@only_gpu
def test_tf32_is_off_for_judging_and_on_as_a_dtype(gpu_torch):
    if gpu_torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has no TF32")
    model = gpu_torch.nn.Linear(64, 64)
    gpu_torch.set_float32_matmul_precision("high")
    try:
        exact = fwc.compare(model, model, inputs=INPUTS, device="cuda", examples=6)
        rounded = fwc.compare(model, model, inputs=INPUTS, device="cuda", dtype="tf32", examples=6)
        assert gpu_torch.get_float32_matmul_precision() == "high"
    finally:
        gpu_torch.set_float32_matmul_precision("highest")
    assert exact.verdict == rounded.verdict == "equivalent"
    assert exact.noise < 1e-5 < rounded.noise


@only_gpu
def test_a_model_that_switches_tf32_on_is_told(gpu_torch):
    if gpu_torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU has no TF32")

    class Greedy(gpu_torch.nn.Linear):
        def forward(self, x):
            gpu_torch.set_float32_matmul_precision("high")
            return super().forward(x)

    found = fwc.compare(
        gpu_torch.nn.Linear(64, 64), Greedy(64, 64), inputs=INPUTS, device="cuda", explain=False
    )
    assert found.verdict == "precision"
    assert any("TF32 explains the noise" in text for text in found.notices)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_on_the_gpu(framework, dtype):
    lacks_dtype(framework, dtype)
    found = judged(NETWORKS["lenet"](), framework, dtype=dtype)
    if found.unsupported:
        pytest.skip(" ".join(found.message.split()))
    assert found.verdict == "equivalent", found.summary()


@only_gpu
def test_out_of_memory_is_reported_as_itself_and_given_back(gpu_torch):
    class Greedy(gpu_torch.nn.Linear):
        def forward(self, x):
            if x.is_cuda and x.dtype is gpu_torch.float32:
                held = [gpu_torch.empty(2**36, dtype=gpu_torch.uint8, device=x.device)]
                while True:
                    held.append(gpu_torch.empty_like(held[0]))
            return super().forward(x)

    before = gpu_torch.cuda.memory_reserved()
    found = fwc.compare(
        lambda: gpu_torch.nn.Linear(64, 3), lambda: Greedy(64, 3), inputs=INPUTS, device="cuda"
    )
    assert found.verdict == "error"
    assert found.message.startswith("port, memory: torch ran out of memory on cuda")
    assert gpu_torch.cuda.memory_reserved() <= before + 2**26


def test_times_and_peaks_of_the_device(framework):
    network = NETWORKS["lenet"]()
    (timing,) = time_network(
        network, [framework], network.inputs, dtype="float32", device=DEVICE, mode="eager"
    )
    assert timing.forward.median > 0
    if ON_CPU:
        assert timing.device == "cpu"
    if ON != "cuda":
        return
    assert timing.device == "cuda:0"
    assert timing.synchronised
    assert timing.peak_of == "device" or "jax" in framework
    if framework == "torch":
        assert timing.device_s is not None
        assert 0 < timing.device_s < 10 * timing.forward.median
    if framework in ("torch", "jax"):
        assert timing.host_s is not None


@only_gpu
def test_a_whole_gpu_is_not_taken(gpu_torch):
    free, total = gpu_torch.cuda.mem_get_info()
    backend = registry.backend("jax")
    if backend.unavailable() or "cuda:0" not in backend.device_names():
        pytest.skip("jax sees no CUDA device")
    import jax

    jax.device_put(np.ones(8), jax.devices("cuda")[0]).block_until_ready()
    left, _ = gpu_torch.cuda.mem_get_info()
    assert free - left < 0.3 * total
