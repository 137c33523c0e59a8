"""Devices: what may be asked for, who gets which, and what is said where one is missing."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends import registry
from pytest_fwcompare.devices import device_of, is_device, kind_of, only_cpu
from pytest_fwcompare.errors import FrameworkUnavailable
from pytest_fwcompare.networks import zoo
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.options import Case
from pytest_fwcompare.selection import Obstacle, obstacle
from pytest_fwcompare.sides import InFramework

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}
NAMED = frozenset({"devices", "dtypes", "modes", "frameworks"})


@pytest.mark.parametrize(
    "device", ["cpu", "cuda", "cuda:0", "cuda:12", "cpu/cuda", "cuda:1/cpu", "cuda:0/cuda:1"]
)
def test_devices_there_are(device):
    assert is_device(device)


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cpu/", "cpu/cuda/cpu"])
def test_devices_there_are_not(device):
    assert not is_device(device)
    with pytest.raises(fwc.UsageError, match=f"device: unknown '{device}'; devices are cpu, cuda"):
        fwc.compare(print, print, inputs=INPUTS, device=device)


def test_each_side_has_its_own_device():
    assert (device_of("cpu/cuda:1", "reference"), device_of("cpu/cuda:1", "port")) == (
        "cpu",
        "cuda:1",
    )
    assert {device_of("cuda", role) for role in ("reference", "port", "torch")} == {"cuda"}
    assert kind_of("cuda:1") == "cuda"
    assert only_cpu("cpu")
    assert only_cpu("cpu/cpu")
    assert not only_cpu("cpu/cuda")


def test_the_sides_are_opened_on_their_own_devices(monkeypatch):
    torch = pytest.importorskip("torch")
    backend = registry.backend("torch")
    asked = []
    monkeypatch.setattr(
        type(backend),
        "adopt",
        lambda self, model, *, device, **_: asked.append(device) or pytest.fail("enough"),
    )
    monkeypatch.setattr(type(backend), "device_names", lambda self: ["cpu", "cuda:0", "cuda:1"])
    for role in ("reference", "port"):
        with pytest.raises(pytest.fail.Exception, match="enough"):
            open_side(
                torch.nn.Linear(2, 2), role, dtype="float32", device="cpu/cuda", mode="eager"
            )
    assert asked == ["cpu", "cuda"]


def test_the_numpy_reference_stays_where_it_is():
    network = zoo.lenet(size=16)
    opened = open_side(
        InFramework(network, "numpy"), "reference", dtype="bfloat16", device="cuda", mode="graph"
    )
    assert opened.side.framework == "numpy"


@pytest.mark.parametrize("name", ["torch", "tensorflow", "jax"])
def test_a_device_that_is_missing_is_refused_with_those_there_are(name):
    pytest.importorskip(name)
    backend = registry.backend(name)
    if len(backend.device_names()) > 1:
        pytest.skip("there is a GPU here")
    network = zoo.lenet(size=16)
    with pytest.raises(
        FrameworkUnavailable, match=f"device 'cuda' was asked for, but {name} sees cpu here"
    ):
        fwc.compare(network, InFramework(network, name), inputs=network.inputs, device="cpu/cuda")


@pytest.mark.parametrize("named", [frozenset(), NAMED])
def test_a_case_on_a_missing_device(named, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(
        type(registry.backend("torch")), "device_names", lambda self: ["cpu", "cuda:0"]
    )
    for device in ("cuda:1", "cpu/cuda:1"):
        found = obstacle(Case("torch", device, "float32", "eager", named))
        assert found == Obstacle(
            "device 'cuda:1': torch finds only cpu, cuda:0 here", fails=bool(named)
        )
    for device in ("cuda", "cuda:0", "cpu/cuda"):
        assert obstacle(Case("torch", device, "float32", "eager", named)) is None


@pytest.mark.parametrize("name", ["torch", "tensorflow", "jax", "keras"])
def test_why_there_is_no_gpu_is_told_with_it(name, monkeypatch):
    pytest.importorskip(name)
    backend = registry.backend(name)
    monkeypatch.setattr(type(backend), "device_names", lambda self: ["cpu"])
    found = obstacle(Case(name, "cuda", "float32", "eager", NAMED))
    assert found is not None
    reason = backend.without_gpu()
    assert "CUDA" in reason
    assert found.reason == f"device 'cuda': {name} finds only cpu here ({reason})"


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (None, "torch {} is a build without CUDA"),
        ("13.0", "torch was built for CUDA 13.0; its driver shows no GPU"),
    ],
)
def test_torch_tells_its_build_from_its_driver(built, reason, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", built)
    assert registry.backend("torch").without_gpu() == reason.format(torch.__version__)


def test_jax_tells_its_plugin_from_its_driver(monkeypatch):
    pytest.importorskip("jax")
    backend = registry.backend("jax")
    for names, reason in (
        ((), "its CUDA plugin is not installed: pip install 'jax[cuda]'"),
        (("xla_cuda13",), "its CUDA plugin is installed, but shows no GPU"),
    ):
        points = [EntryPoint(name, "nothing", "jax_plugins") for name in names]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group, p=points: p)
        assert backend.without_gpu().startswith(reason)


def test_tf32_needs_a_gpu():
    with pytest.raises(FrameworkUnavailable, match="dtype 'tf32' is float32 with the rounded pro"):
        fwc.compare(print, print, inputs=INPUTS, dtype="tf32")
    for named, fails in (
        (frozenset({"dtypes"}), True),
        (frozenset({"dtypes", "devices"}), False),
        (frozenset(), False),
    ):
        found = obstacle(Case("torch", "cpu", "tf32", "eager", named))
        assert found is not None
        assert "Ask for device cuda or cpu/cuda" in found.reason
        assert found.fails is fails


def test_frameworks_are_kept_from_taking_the_whole_gpu(monkeypatch):
    import os

    from pytest_fwcompare.backends.tensorflow import prepare_import

    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    prepare_import()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    registry.backend("jax")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    prepare_import()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"  # the user's own stays


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "torch",
            "matmul_tf32 cudnn_tf32 float32_matmul_precision deterministic_algorithms "
            "cudnn_deterministic cudnn_benchmark",
        ),
        ("tensorflow", "tf32 deterministic_ops cudnn_deterministic xla_flags onednn"),
        ("jax", "default_matmul_precision xla_flags preallocate"),
    ],
)
def test_switches_of_precision_and_determinism_are_on_record(name, keys):
    pytest.importorskip(name)
    assert set(keys.split()) <= set(registry.backend(name).environment())
