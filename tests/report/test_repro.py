"""Folders that show a difference: run by a Python that cannot import the plugin."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as nn
from pytest_fwcompare.report.repro import source_of
from pytest_fwcompare.sides import InFramework

torch = pytest.importorskip("torch")

FACTORIES = """
import torch


class Net(torch.nn.Module):
    def __init__(self, epsilon):
        super().__init__()
        self.lift = torch.nn.Linear(6, 4)
        self.norm = torch.nn.LayerNorm(4, eps=epsilon)
        self.read = torch.nn.Linear(4, 3)

    def forward(self, features):
        return {"first": self.read(self.norm(self.lift(features))), "second": features.sum(1)}


def reference():
    return Net(1e-5)


def port():
    return Net(1e-1)


def stopped():
    net = Net(1e-5)
    net.norm.register_forward_hook(lambda module, given, made: made.detach())
    return net


def keras_port(epsilon=0.1):
    import keras

    features = keras.Input((6,))
    x = keras.layers.Dense(4)(features)
    x = keras.layers.LayerNormalization(epsilon=epsilon)(x)
    first = keras.layers.Dense(3)(x)
    return keras.Model(features, {"first": first, "second": keras.ops.sum(features, 1)})


def function_port():
    import jax

    def run(tree, features):
        x = features @ tree["w1"] + tree["b1"]
        x = (x - x.mean(-1, keepdims=True)) / jax.numpy.sqrt(x.var(-1, keepdims=True) + 0.1)
        x = x * tree["scale"] + tree["shift"]
        return {"first": x @ tree["w2"] + tree["b2"], "second": features.sum(1)}

    shapes = {"w1": (6, 4), "b1": 4, "scale": 4, "shift": 4, "w2": (4, 3), "b2": 3}
    return run, {name: jax.numpy.ones(shape) for name, shape in shapes.items()}


def nnx_port():
    from flax import nnx

    class Port(nnx.Module):
        def __init__(self, rngs):
            self.lift = nnx.Linear(6, 4, rngs=rngs)
            self.norm = nnx.LayerNorm(4, epsilon=0.1, rngs=rngs)
            self.read = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, features):
            first = self.read(self.norm(self.lift(features)))
            return {"first": first, "second": features.sum(1)}

    return Port(nnx.Rngs(0))


def linen_port():
    import jax
    from flax import linen

    class Port(linen.Module):
        @linen.compact
        def __call__(self, features):
            x = linen.LayerNorm(epsilon=0.1)(linen.Dense(4)(features))
            return {"first": linen.Dense(3)(x), "second": features.sum(1)}

    made = Port()
    return made, made.init(jax.random.key(0), jax.numpy.zeros((1, 6)))


def equinox_port():
    import equinox as eqx
    import jax

    class Port(eqx.Module):
        lift: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        read: eqx.nn.Linear

        def __call__(self, features):
            first = jax.vmap(lambda row: self.read(self.norm(self.lift(row))))(features)
            return {"first": first, "second": features.sum(1)}

    keys = jax.random.split(jax.random.key(0))
    return Port(
        eqx.nn.Linear(6, 4, key=keys[0]),
        eqx.nn.LayerNorm(4, eps=0.1),
        eqx.nn.Linear(4, 3, key=keys[1]),
    )


class Normed(torch.nn.Module):
    def __init__(self, rate=0.0):
        super().__init__()
        self.lift, self.norm = torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4)
        self.drop, self.read = torch.nn.Dropout(rate), torch.nn.Linear(4, 3)

    def forward(self, features):
        return self.read(self.drop(self.norm(self.lift(features))))


def normed():
    return Normed()


def dropping():
    return Normed(0.5)


def nnx_normed():
    from flax import nnx

    class Port(nnx.Module):
        def __init__(self, rngs):
            self.lift, self.read = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)

        def __call__(self, features):
            return self.read(self.norm(self.lift(features)))

    made = Port(nnx.Rngs(0))
    made.eval()
    return made


def linen_normed():
    import jax
    from flax import linen

    class Port(linen.Module):
        @linen.compact
        def __call__(self, features, train=False):
            x = linen.BatchNorm(use_running_average=not train, momentum=0.5)(
                linen.Dense(4)(features)
            )
            return linen.Dense(3)(x)

    made = Port()
    return made, made.init(jax.random.key(0), jax.numpy.zeros((2, 6)))
"""

INPUTS = {"features": fwc.TensorSpec(("batch", 6))}


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "models_of_repro.py"
    path.write_text(FACTORIES, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("models_of_repro", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def show(folder) -> subprocess.CompletedProcess:
    """Run the script where importing the plugin, pytest or Hypothesis raises."""
    code = (
        "import sys, runpy\n"
        "for name in ('pytest_fwcompare', 'pytest', 'hypothesis'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        f"runpy.run_path({str(folder / 'repro.py')!r}, run_name='__main__')\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=folder.parent,
    )


def compared(reference, port, folder, inputs=None, **keywords) -> fwc.Comparison:
    return fwc.compare(
        reference, port, inputs=inputs or INPUTS, examples=4, repro=folder, **keywords
    )


MAPPED = {
    "w1": ("lift.weight", fwc.transforms.Transpose((1, 0))),
    "b1": "lift.bias",
    "scale": "norm.weight",
    "shift": "norm.bias",
    "w2": ("read.weight", fwc.transforms.Transpose((1, 0))),
    "b2": "read.bias",
}


@pytest.mark.parametrize(
    ("port", "kernel", "weights"),
    [
        ("port", "parameter read.weight", "auto"),
        ("keras_port", "parameter 4", "auto"),
        ("function_port", "parameter 5", MAPPED),
        ("nnx_port", "parameter 5", "auto"),
        ("linen_port", "parameter 3", "auto"),
        ("equinox_port", "parameter 4", "auto"),
    ],
)
def test_the_script_shows_the_difference_alone(factories, tmp_path, port, kernel, weights):
    folder = tmp_path / "shown"
    made = getattr(factories, port)
    found = compared(factories.reference, made, folder, weights=weights)
    assert found.verdict == "semantic", found.summary()
    assert f"shown without this plugin by python {folder / 'repro.py'}" in found.notices
    shown = show(folder)
    assert shown.returncode == 1, shown.stdout + shown.stderr
    lines = {line[:40].strip(): line for line in shown.stdout.splitlines()}
    assert "<-- differs" in lines["output 0"]
    assert "<-- differs" in lines[kernel]
    assert "<-- differs" not in lines["output 1"]
    assert found.summary().splitlines()[0] in shown.stdout
    for name in ("weights", "inputs", "expected", "cotangents"):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            assert arrays.files


@pytest.mark.parametrize("port", ["nnx_normed", "linen_normed"])
def test_a_step_in_training_is_shown(factories, tmp_path, port):
    """The momentum of the running statistics is another: only buffers after a step differ."""
    pytest.importorskip("flax")
    folder = tmp_path / "shown"
    found = compared(
        factories.normed,
        getattr(factories, port),
        folder,
        inputs={"features": fwc.TensorSpec((5, 6))},
        checks=("forward", "backward", "training"),
    )
    assert (found.verdict, found.cause) == ("semantic", "running-statistics"), found.summary()
    shown = show(folder)
    assert shown.returncode == 1, (found.notices, shown.stdout, shown.stderr)
    differing = {x[:40].strip() for x in shown.stdout.splitlines() if "<-- differs" in x}
    # Outputs of a constant batch are rounding alone, so nothing is said of those.
    assert len([name for name in differing if name.startswith("buffer ")]) == 2, shown.stdout


def test_masks_of_dropout_are_not_for_a_script(factories, tmp_path):
    folder = tmp_path / "shown"
    found = compared(
        factories.normed,
        factories.dropping,
        folder,
        inputs={"features": fwc.TensorSpec((5, 6))},
        checks=("forward", "training"),
    )
    assert found.verdict == "semantic"
    assert any("with dropout, whose masks a script" in text for text in found.notices)
    assert not folder.exists()


def test_the_script_tells_a_repaired_port(factories, tmp_path):
    """The same folder with the fault taken out of the factory's file: nothing differs."""
    folder = tmp_path / "shown"
    compared(factories.reference, factories.port, folder)
    case = json.loads((folder / "case.json").read_text())
    case["port"]["source"]["name"] = "reference"
    (folder / "case.json").write_text(json.dumps(case))
    shown = show(folder)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "no difference beyond" in shown.stdout
    assert "differs" not in shown.stdout.split("float64 values")[1].split("no difference")[0]


def test_a_stopped_gradient_is_shown(factories, tmp_path):
    folder = tmp_path / "shown"
    found = compared(factories.reference, factories.stopped, folder)
    assert found.verdict == "semantic"
    shown = show(folder)
    assert shown.returncode == 1, shown.stdout + shown.stderr
    lines = {line[:40].strip(): line for line in shown.stdout.splitlines()}
    assert "<-- differs" in lines["input features"]
    assert "<-- differs" not in lines["output 0"]


@pytest.mark.parametrize("framework", ["torch", "keras", "jax"])
def test_described_networks(tmp_path, framework):
    pytest.importorskip(framework)

    def described(epsilon):
        return nn.Sequential(
            [nn.Dense(4), nn.LayerNorm(epsilon=epsilon), nn.Dense(3)],
            input_shape=(6,),
        )

    network = described(1e-5)
    folder = tmp_path / "shown"
    (name,) = network.inputs
    found = compared(
        InFramework(network, "numpy"),
        InFramework(described(0.1), framework),
        folder,
        inputs={name: INPUTS["features"]},
    )
    assert found.verdict == "semantic", found.summary()
    shown = show(folder)
    assert shown.returncode == 1, (found.notices, shown.stdout, shown.stderr)
    assert "<-- differs" in next(x for x in shown.stdout.splitlines() if x.startswith("output 0"))


def test_what_this_process_alone_can_make_is_refused(factories, tmp_path):
    folder = tmp_path / "shown"
    found = compared(factories.reference, factories.port(), folder)
    assert found.verdict == "semantic"
    (said,) = [text for text in found.notices if "no script was written" in text]
    assert "the port (Net) cannot be made again by another process" in said
    assert "Pass a function defined at the top of a module" in said
    assert not folder.exists()
    with pytest.raises(fwc.UsageError, match="cannot be made again"):
        source_of(lambda: factories.port(), "port")


def test_nothing_is_written_for_a_pass(factories, tmp_path):
    folder = tmp_path / "shown"
    assert compared(factories.reference, factories.reference, folder).verdict == "equivalent"
    assert not folder.exists()
