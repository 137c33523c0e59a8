"""Where things are while a comparison runs on a device, and that models stay where they were.

Run by `tests/axes/test_second_device.py` on a second CPU device, by `make test-cuda` on a GPU.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.building import build_identical
from pytest_fwcompare.opening.given import open_side

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        os.environ.get("FWCOMPARE_CUDA_TESTS_ON") == "cpu", reason="needs a second device"
    ),
]

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}
GIVEN = [Argument("x", np.linspace(-1, 1, 8).reshape(2, 4))]


def device_of_jax(name):
    from pytest_fwcompare.backends.jax.devices import device_of

    return device_of(name)


def device_of_tensorflow(name):
    from pytest_fwcompare.backends.tensorflow.state import device_name

    return device_name(name)


@pytest.fixture
def jax():
    backend = registry.backend("jax")
    if reason := backend.unavailable():
        pytest.skip(reason)
    if "cuda:0" not in backend.device_names():
        pytest.skip("jax sees no CUDA device")
    import jax

    return jax


@pytest.fixture
def tf():
    backend = registry.backend("tensorflow")
    if reason := backend.unavailable():
        pytest.skip(reason)
    if "cuda:0" not in backend.device_names():
        pytest.skip("tensorflow sees no CUDA device")
    import tensorflow

    return tensorflow


def pair_on(jax, device):
    """A function and its parameters, which are bound to a device."""
    where = device_of_jax(device)
    rng = np.random.default_rng(0)
    params = {
        "kernel": jax.device_put(rng.normal(size=(4, 3)).astype("float32"), where),
        "key": jax.device_put(jax.random.key(0), where),
        "steps": jax.device_put(np.arange(3, dtype="int32"), where),
    }

    def function(params, x):
        return jax.numpy.tanh(x @ params["kernel"]) + params["steps"]

    return function, params


def on(jax, tree):
    """Every device that holds a leaf of a tree."""
    leaves = jax.tree_util.tree_leaves(tree)
    return set().union(*(leaf.devices() for leaf in leaves if isinstance(leaf, jax.Array)))


@pytest.mark.parametrize("precision", ["working", "double"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_jax_runs_where_it_is_told(jax, monkeypatch, home, device, mode, precision):
    from pytest_fwcompare.backends.jax.adopt import JaxSide
    from pytest_fwcompare.backends.jax.passes import JaxPass

    model = pair_on(jax, home)
    here, there = {device_of_jax(device)}, on(jax, model)
    side = open_side(model, "port", dtype="float32", device=device, mode=mode).side
    seen = []

    def watched(kind, method):
        def run(self, *arguments, **keywords):
            made = method(self, *arguments, **keywords)
            seen.append((kind, on(jax, made)))
            return made

        return run

    def started(self, side, precision, outputs, changed, pulled):
        seen.append(("outputs", on(jax, list(outputs.arrays))))
        begin(self, side, precision, outputs, changed, pulled)

    begin = JaxPass.__init__
    monkeypatch.setattr(JaxSide, "given", watched("given", JaxSide.given))
    monkeypatch.setattr(JaxSide, "pull", watched("gradients", JaxSide.pull))
    monkeypatch.setattr(JaxPass, "__init__", started)
    with side:
        side.load({"kernel": np.ones((4, 3))}, precision)
        passed = side.forward(GIVEN, precision=precision)
        found = passed.backward({name: np.ones_like(v) for name, v in passed.outputs.items()})
    assert found.parameters["kernel"].shape == (4, 3)
    assert {kind for kind, _ in seen} >= {"given", "outputs"}
    assert [entry for entry in seen if entry[1] != here] == []
    assert on(jax, model) == there
    np.testing.assert_array_equal(np.asarray(model[1]["kernel"]), np.asarray(
        pair_on(jax, home)[1]["kernel"]
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("device", "mode"), [("cpu/cuda", "eager"), ("cuda/cpu", "graph"), ("cuda", "eager")]
)
def test_jax_across_devices(jax, device, mode):
    models = pair_on(jax, "cpu"), pair_on(jax, "cuda")
    found = fwc.compare(*models, inputs=INPUTS, device=device, mode=mode, examples=2)
    assert found.verdict == "equivalent", found.summary()
    assert found.device == device


def small_model(tf):
    """A product, and a gather, whose gradient is sparse."""

    class Model(tf.Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.kernel = tf.Variable(rng.normal(size=(4, 3)).astype("float32"))
            self.table = tf.Variable(rng.normal(size=(5, 3)).astype("float32"))

        def __call__(self, x):
            return tf.tanh(x @ self.kernel) + tf.gather(self.table, [3])

    return Model()


def variables_on(tf, device):
    with tf.device(device_of_tensorflow(device)):
        return small_model(tf)


def place(tensor):
    """The end of a device's name: "CPU:1"."""
    return tensor.device.rpartition("device:")[2]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_tensorflow_runs_where_it_is_told(tf, monkeypatch, home, device, mode):
    from pytest_fwcompare.backends.tensorflow.passes import WorkingPass

    model = variables_on(tf, home)
    here, there = device_of_tensorflow(device)[1:], device_of_tensorflow(home)[1:]
    before = model.kernel.numpy()
    seen = []
    started = WorkingPass.__init__

    def watched(self, side, tensors, *rest):
        seen.extend(place(tensor) for tensor in (*tensors.values(), *rest[2].values()))
        started(self, side, tensors, *rest)

    monkeypatch.setattr(WorkingPass, "__init__", watched)
    with open_side(model, "port", dtype="float32", device=device, mode=mode).side as side:
        side.prepare(GIVEN)
        for precision in ("working", "double"):
            side.load({"kernel": np.ones((4, 3))}, precision)
            passed = side.forward(GIVEN, precision=precision)
            found = passed.backward({name: np.ones_like(v) for name, v in passed.outputs.items()})
            assert found.parameters["kernel"].shape == (4, 3)
    assert seen
    assert set(seen) == {here}
    assert place(model.kernel) == place(model.table) == there
    np.testing.assert_array_equal(model.kernel.numpy(), before)


@pytest.mark.parametrize("device", ["cpu/cuda", "cuda/cpu", "cuda"])
def test_tensorflow_across_devices(tf, device):
    models = variables_on(tf, "cpu"), variables_on(tf, "cuda")
    found = fwc.compare(*models, inputs=INPUTS, device=device, examples=2)
    assert found.verdict == "equivalent", found.summary()
    assert found.device == device


@pytest.mark.parametrize("device", ["cpu/cuda", "cuda/cpu"])
def test_what_a_factory_makes_is_compiled_where_it_runs(tf, device):
    """XLA takes no variable of another device."""
    found = fwc.compare(
        lambda: small_model(tf), lambda: small_model(tf),
        inputs=INPUTS, device=device, mode="compiled",
        examples=2,
    )  # fmt: skip
    assert found.verdict == "equivalent", found.summary()


def test_a_model_that_lives_elsewhere_is_not_compiled_and_not_moved(tf):
    model = variables_on(tf, "cpu")
    found = fwc.compare(
        model, variables_on(tf, "cuda"), inputs=INPUTS, device="cuda", mode="compiled", examples=2
    )
    assert (found.verdict, found.unsupported) == ("error", "mode")
    assert "Trying to access resource" in found.message
    assert place(model.kernel) == device_of_tensorflow("cpu")[1:]


def test_described_networks_are_built_where_they_run(framework):
    if framework not in ("tensorflow", "jax", "keras"):
        pytest.skip(f"{framework} is looked at elsewhere")
    name = framework
    network = fn.Sequential([fn.Dense(4), fn.LayerNorm(), fn.LSTM(3)], input_shape=(5, 3))
    models = {
        device: build_identical(network, [name], device=device)[name] for device in ("cpu", "cuda")
    }
    for device, model in models.items():
        if name == "jax":
            import jax

            assert on(jax, model.params) == {device_of_jax(device)}
        else:
            here = device_of_tensorflow(device)[1:]
            variables = [getattr(v, "value", v) for v in model.trainable_variables]
            values = [v() if callable(v) else v for v in variables]
            assert {place(value) for value in values} == {here}
