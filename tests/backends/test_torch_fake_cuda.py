"""torch's CUDA paths without a GPU: tensors that know their device and shape, and hold no values.

`FakeTensorMode` raises where a tensor of the CPU meets one of the GPU, as a GPU does. It cannot
take anything back (autograd asks for CUDA itself), so these passes go forward only; what a
backward pass adds is made like the outputs: `test_cotangents_go_where_the_outputs_are`.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref

import numpy as np
import pytest

from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.conformance.cases import CASES
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.formats import format_of

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

from pytest_fwcompare.backends.torch import clock, modes  # noqa: E402
from pytest_fwcompare.backends.torch.adopt import TorchSide  # noqa: E402
from pytest_fwcompare.backends.torch.build import build  # noqa: E402
from pytest_fwcompare.backends.torch.guard import Guarded, Tree, differentiable  # noqa: E402
from pytest_fwcompare.backends.torch.precision import cast  # noqa: E402
from pytest_fwcompare.backends.torch.twin import own_tensor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GPU = "cuda:0"
GIVEN = [Argument("x", np.ones((2, 4)))]


def moved(module, device=None, dtype=None):
    """`torch.nn.Module.to` for tensors without values, which torch would swap in place."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                made = value.detach().to(device, dtype if value.is_floating_point() else None)
                part._parameters[name] = torch.nn.Parameter(made, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(
                    device, dtype if value.is_floating_point() else None
                )
        if isinstance(part, torch.nn.RNNBase):
            part._flat_weights = [getattr(part, n, None) for n in part._flat_weights_names]
            part._flat_weight_refs = [
                None if w is None else weakref.ref(w) for w in part._flat_weights
            ]
    return module


def values_of(tensor, *, force=False):
    """`Tensor.numpy` of a tensor without values: NumPy takes none from a GPU."""
    if tensor.device.type != "cpu" and not force:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@pytest.fixture
def asked(monkeypatch):
    """What is asked of CUDA itself, in order."""
    calls = []

    @contextlib.contextmanager
    def forked(devices):
        calls.append(("fork", list(devices)))
        yield
        calls.append(("put back", list(devices)))

    @contextlib.contextmanager
    def device(number):
        calls.append(("device", number))
        yield

    monkeypatch.setattr(torch.random, "fork_rng", forked)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: calls.append("seed"))
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    real = torch.Tensor.numpy
    monkeypatch.setattr(
        torch.Tensor,
        "numpy",
        lambda tensor, **keywords: (
            real(tensor, **keywords)
            if type(tensor) in (torch.Tensor, torch.nn.Parameter)
            else values_of(tensor, **keywords)
        ),
    )
    return calls


class Unlinked(TorchFunctionMode):
    """A few calls ask CUDA itself before they are faked (new tensors, indexing).

    They are made on the CPU and their result is moved, if all their tensors are in one place.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        try:
            return func(*args, **kwargs)
        except (RuntimeError, AssertionError) as error:
            if not any(text in str(error) for text in ("not linked with", "not compiled with")):
                raise
        places = {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        assert len(places) <= 1, f"{func} was given tensors on {places}"
        down = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), (args, kwargs))
        device = kwargs.get("device", *places)
        if "device" in kwargs:
            down[1]["device"] = "cpu"
        made = func(*down[0], **down[1])
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), made)


@contextlib.contextmanager
def fakes():
    """Tensors made within have no values; real ones of the CPU are taken as such."""
    with FakeTensorMode(allow_non_fake_inputs=True), Unlinked():
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer_stays_on_the_device(asked, case):
    network = case.network()
    built = build(network)
    native = built.model
    with fakes():
        side = TorchSide(native, dtype="float32", device=GPU, mode="eager", own=False)
        assert {str(p.device) for p in side.model.parameters()} <= {GPU}
        values = case.inputs(case.sizes[0])
        arguments = [
            Argument(name, value.transpose(built.input_axes.get(name, range(value.ndim))))
            for name, value in values.items()
        ]
        for precision in ("working", "double"):
            for record in (False, True)[: 1 + (precision == "double")]:
                passed = side.forward(
                    arguments, precision=precision, gradients=False, record=record
                )
                assert {str(t.device) for t in passed._outputs.values()} == {GPU}
    assert {str(p.device) for p in native.parameters()} <= {"cpu"}


class Forgetful(torch.nn.Module):
    """Makes a constant on the CPU, wherever its input is."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x) + torch.ones(3)


@pytest.mark.parametrize("precision", ["working", "double"])
def test_a_tensor_that_was_left_on_the_cpu_is_noticed(asked, precision):
    model = Forgetful()
    with fakes():
        side = TorchSide(model, dtype="float32", device=GPU, mode="eager", own=False)
        with pytest.raises(ModelError, match=r"same device, but found .* cuda:0 and cpu"):
            side.forward(GIVEN, precision=precision, gradients=False)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_random_numbers_are_those_of_the_gpu_that_runs(asked, device):
    """A seed for the current GPU would leave another one's stream as it was put back: no draw
    would differ from the last, and dropout that was left on would go unnoticed."""
    number = int(device[-1])
    with fakes():
        side = TorchSide(torch.nn.Linear(4, 3), dtype="float32", device=device, mode="eager",
                         own=False)  # fmt: skip
        side.forward(GIVEN, precision="working", gradients=False)
    assert asked == [("fork", [number]), ("device", number), "seed", ("put back", [number])]


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    model = torch.nn.Linear(2, 2)
    assert Tree(model, torch.device("cuda")).cuda == 3
    assert Tree(model, torch.device("cuda:1")).cuda == 1
    assert Tree(model, torch.device("cpu")).cuda is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_is_that_of_the_device(dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    made = cast(format_of(f"mixed_{dtype}"), torch.device(GPU))
    assert (made.device, made.fast_dtype) == ("cuda", getattr(torch, dtype))
    with made:
        assert torch.is_autocast_enabled("cuda")
        assert not torch.is_autocast_enabled("cpu")


def test_cotangents_go_where_the_outputs_are():
    with fakes():
        made = own_tensor(np.ones((2, 3)), torch.float32, torch.device(GPU))
        assert (str(made.device), made.dtype) == (GPU, torch.float32)


def test_recurrent_layers_are_in_training_while_cudnn_needs_it():
    net = torch.nn.Sequential(torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5), torch.nn.Dropout())
    net.eval()
    with differentiable(list(net.modules())):
        assert (net[0].training, net[0].dropout) == (True, 0.0)
        assert not net[1].training
        assert not net.training
    assert (net[0].training, net[0].dropout) == (False, 0.5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_scripted_recurrent_layers_are_too_where_nothing_is_drawn(dropout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(torch.nn.LSTM(3, 4, num_layers=2, dropout=dropout).eval())
    with differentiable(list(script.modules())):
        assert script.training is (dropout == 0.0)
    assert not script.training


def test_only_passes_that_are_taken_back_need_it(monkeypatch):
    """In a step in training mode the layer is in training anyhow, with its dropout."""
    seen = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda number: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: None)
    model = torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5).eval()
    tree = Tree(model, torch.device(GPU))
    for training, gradients in ((False, False), (False, True), (True, True)):
        guard = Guarded(tree, training=training, gradients=gradients, shadow_of=None)
        with guard:
            seen.append((model.training, model.dropout))
        assert (model.training, model.dropout) == (False, 0.5)
    assert seen == [(False, 0.5), (True, 0.0), (True, 0.5)]


def test_a_gpu_is_waited_for_and_its_time_is_between_two_events(monkeypatch):
    calls = []

    class Event:
        def __init__(self, enable_timing):
            self.name = f"event {sum(str(c).startswith('new') for c in calls)}"
            calls.append(f"new {self.name}")

        def record(self):
            calls.append(f"record {self.name}")

        def synchronize(self):
            calls.append(f"wait for {self.name}")

        def elapsed_time(self, other):
            return 2.5  # milliseconds

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(f"wait {device}"))
    assert clock._device_seconds(lambda: calls.append("work"), torch.device(GPU)) == 2.5e-3
    assert calls == [
        *("new event 0", "new event 1", "work", "record event 0", "work", "record event 1"),
        "wait for event 1",
    ]
    calls.clear()
    clock._synchroniser(torch.device(GPU))()
    assert calls == ["wait cuda:0"]
    clock._synchroniser(torch.device("cpu"))()
    assert calls == ["wait cuda:0"]


def test_calls_on_a_gpu_are_timed_when_it_is_done(asked, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    model = torch.nn.Linear(4, 3)
    with fakes():
        side = TorchSide(model, dtype="float32", device=GPU, mode="eager", own=False)
        found = side.stopwatch(GIVEN, None)
        with found.settings():
            found.queue()
            assert waited == []  # the host's time: it goes on while the device works
            found.forward()
    assert waited == [GPU]
    assert found.on_device is not None


def test_what_compiling_for_a_gpu_needs(monkeypatch):
    monkeypatch.setattr(modes, "find_spec", lambda name: None)
    assert modes.missing_compiler("cuda:1") == (
        "torch.compile needs Triton for a GPU (pip install triton) and found none"
    )
    monkeypatch.setattr(modes, "find_spec", lambda name: name)
    assert modes.missing_compiler("cuda:1") is None


def test_the_peak_of_a_gpu_is_that_of_the_call(monkeypatch):
    calls = []
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 4096)
    backend = registry.backend("torch")
    assert backend.device_peak("cpu", lambda: calls.append("call")) is None
    assert backend.device_peak(GPU, lambda: calls.append("call")) == 4096
    assert calls == ["reset_peak_memory_stats", "call", "synchronize"]
