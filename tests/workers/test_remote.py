"""A side in a worker gives bit for bit what the same side gives in this process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.registry import backend, owner
from pytest_fwcompare.errors import FrameworkUnavailable, ModelError, UsageError
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.randomness import seeded
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers.remote import RemoteModel
from pytest_fwcompare.workers.sources import source_of
from workers import models

AXES = {"dtype": "float32", "device": "cpu", "mode": "eager"}


def remote(factory, name="torch@w", state=None) -> RemoteModel:
    return fwc.in_worker(name, factory, state=state)


@pytest.fixture
def both():
    """The same torch model here and in a worker, with the same weights."""
    here = open_side(models.with_buffers, "reference", **AXES)
    there = open_side(remote(models.with_buffers), "port", **AXES)
    yield here.side, there.side
    there.side.close()
    here.side.close()


def arguments() -> list[Argument]:
    return [Argument("x", np.random.default_rng(0).standard_normal((5, 3)))]


def equal(one, other) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        np.testing.assert_array_equal(value, other[name])


def test_parameters_and_values_are_the_same(both):
    here, there = both
    assert there.parameters() == here.parameters()
    equal(here.read(), there.read())


@pytest.mark.parametrize("precision", ["working", "double"])
@pytest.mark.parametrize("training", [False, True])
def test_passes_are_the_same(both, precision, training):
    rng = np.random.default_rng(1)
    values = {name: rng.random(value.shape) for name, value in both[0].read().items()}
    made = []
    for side in both:
        side.load(values, precision)
        passed = side.forward(arguments(), precision=precision, training=training)
        gradients = passed.backward({"output": np.ones((5, 4))})
        made.append((passed.outputs, gradients, passed.buffers()))
    (outputs, gradients, buffers), (outputs_there, gradients_there, buffers_there) = made
    equal(outputs, outputs_there)
    equal(gradients.inputs, gradients_there.inputs)
    equal(gradients.parameters, gradients_there.parameters)
    equal(buffers, buffers_there)


def test_records_are_the_same(both):
    made = []
    for side in both:
        passed = side.forward(arguments(), precision="double", record=True)
        passed.backward({"output": np.ones((5, 4))})
        made.append(passed.recorded())
    assert len(made[0]) == len(made[1]) > 3
    for ours, theirs in zip(*made, strict=True):
        assert (ours.path, ours.operation, ours.inputs) == (
            theirs.path,
            theirs.operation,
            theirs.inputs,
        )
        assert dict(ours.attributes) == dict(theirs.attributes)
        np.testing.assert_array_equal(ours.value, theirs.value)
        np.testing.assert_array_equal(ours.gradient, theirs.gradient)


def test_the_worker_forgets_passes_that_nobody_needs(both, workers):
    _, there = both
    worker = there.worker
    passes = [there.forward(arguments(), precision="working") for _ in range(3)]
    numbers = [passed._number for passed in passes]
    del passes
    assert sorted(worker._dropped) == numbers
    there.read()
    assert worker._dropped == []


def test_large_arrays_cross_by_shared_memory(workers):
    here = open_side(models.wide, "reference", **AXES).side
    there = open_side(remote(models.wide), "port", **AXES).side
    assert there.worker.shares == (sys.platform == "linux")
    x = [Argument("x", np.random.default_rng(0).standard_normal((400, 300)))]
    rng = np.random.default_rng(3)
    values = {name: rng.standard_normal(v.shape) for name, v in here.read().items()}
    made = []
    for side in (here, there):
        side.load(values, "double")
        first = side.forward(x, precision="double")
        second = side.forward([Argument("x", 2 * x[0].value)], precision="double")
        # An earlier pass must not see what crossed after it.
        gradients = first.backward({"output": np.ones((400, 200))})
        made.append((first.outputs, second.outputs, gradients.parameters))
    for ours, theirs in zip(*made, strict=True):
        equal(ours, theirs)
    there.close()


def test_a_described_network_is_judged_in_a_worker(workers):
    network = fn.Sequential([fn.Conv2D(3, 3), fn.BatchNorm(), fn.Flatten()], input_shape=(6, 6, 2))
    for name in ("torch@w", "numpy@w"):
        comparison = fwc.compare(
            InFramework(network, "numpy"),
            InFramework(network, name),
            inputs=network.inputs,
            examples=3,
            checks=("forward", "backward", "training"),
        )
        assert comparison.verdict == "equivalent", comparison.summary()
        assert comparison.port == name
        told = comparison.environment[name]["worker"]
        assert told["pid"] == workers.worker(name).pid
        assert told["python"] == sys.version.split()[0]
    assert workers.started["torch@w"] == workers.started["numpy@w"] == 1


def test_two_workers_are_compared_and_the_cause_is_found():
    comparison = fwc.compare(
        remote(models.tiny, "torch@v"),
        remote(models.other_gelu, "torch@w"),
        inputs={"x": fwc.TensorSpec(("batch", 3))},
        examples=4,
    )
    assert (comparison.verdict, comparison.cause) == ("semantic", "activation-variant")
    assert (comparison.reference, comparison.port) == ("torch@v", "torch@w")


def test_timings_of_a_worker_are_in_seconds(workers):
    start = time.perf_counter()
    comparison = fwc.compare(
        models.tiny,
        remote(models.tiny),
        inputs={"x": fwc.TensorSpec(("batch", 3))},
        examples=2,
        timings=True,
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    ours, theirs = comparison.timings
    assert (ours.framework, theirs.framework) == ("torch", "torch@w")
    taken = time.perf_counter() - start
    assert 0 < theirs.forward.median < taken
    assert 0 < theirs.backward.median < taken
    assert theirs.own_process
    assert theirs.ratio is None
    assert not ours.own_process


def test_a_state_dict_crosses_with_its_factory(tmp_path):
    import torch

    model = models.tiny()
    with torch.no_grad():
        model[0].bias.fill_(7.0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    side = open_side(remote(models.tiny, state=tmp_path / "weights.pt"), "port", **AXES).side
    np.testing.assert_array_equal(side.read()["0.bias"], np.full(4, 7.0, np.float32))
    side.close()


def test_models_built_in_a_worker_can_be_compared_again():
    network = fn.Sequential([fn.Dense(4)], input_shape=(3,))
    built = backend("torch@w").build(network)
    assert owner(built.model).name == "torch@w"
    comparison = fwc.compare(
        built.model, built.model, inputs={"x": fwc.TensorSpec(("batch", 3))}, examples=2
    )
    assert comparison.verdict == "equivalent", comparison.summary()


def test_what_the_worker_raises_on_purpose_is_raised_here(both):
    _, there = both
    with pytest.raises(ModelError, match=r"^port, forward: torch raised RuntimeError: mat1"):
        there.forward([Argument("x", np.zeros((2, 7)))], precision="working")
    with pytest.raises(UsageError, match=r"port \(worker 'torch@w'\): .*no parameter 'nothing'"):
        there.load({"nothing": np.zeros(3)}, "working")


def test_a_factory_that_fails_says_so():
    with pytest.raises(ModelError, match=r"build: raises raised ValueError: no such checkpoint"):
        open_side(remote(models.raises), "port", **AXES)
    with pytest.raises(ModelError, match=r"SystemExit: the model wants to leave"):
        open_side(remote(models.exits), "port", **AXES)
    with pytest.raises(
        ModelError, match=r"import: workers.models:nothing cannot be imported.* no at"
    ):
        open_side(remote("workers.models:nothing"), "port", **AXES)


def test_random_numbers_of_a_factory_can_be_seeded_in_the_worker():
    def kernel(seed):
        with seeded(seed):
            side = open_side(remote(models.unseeded), "port", **AXES).side
        value = side.read()["0.weight"]
        side.close()
        return value.tolist()

    assert kernel(3) == kernel(3) != kernel(4)
    assert kernel(None) != kernel(None)


def test_a_copy_function_cannot_change_a_model_elsewhere():
    with pytest.raises(UsageError, match="port: the model is in the worker 'torch@w', so a func"):
        fwc.compare(
            models.tiny,
            remote(models.tiny),
            inputs={"x": fwc.TensorSpec(("batch", 3))},
            weights=lambda ours, theirs: None,
        )


class TestSources:
    def test_names_and_files_of_factories(self):
        found = source_of(models.tiny)
        assert (found["module"], found["name"]) == ("workers.models", "tiny")
        assert Path(found["file"]).name == "models.py"
        assert source_of("workers.models:tiny")["name"] == "tiny"

    @pytest.mark.parametrize(
        ("given", "complaint"),
        [
            (lambda: None, r"<lambda>.* cannot be imported by that name.*no lambda"),
            (models.tiny(), r"a Sequential object cannot be sent.*pass a function that returns"),
            ("no colon", r"expected a factory by name"),
            (Path("weights.pt"), r"goes with the factory of its module: state='weights.pt'"),
        ],
    )
    def test_what_cannot_cross_is_told_what_to_do(self, given, complaint):
        with pytest.raises(UsageError, match=complaint):
            source_of(given)

    def test_a_missing_state_dict(self):
        with pytest.raises(UsageError, match=r"there is no state dict 'nowhere\.pt'"):
            source_of(models.tiny, "nowhere.pt")


class TestRefusals:
    def test_an_unknown_tag_says_how_to_name_a_worker(self):
        with pytest.raises(
            FrameworkUnavailable, match=r"no worker 'torch@nightly': .*--fwcompare-worker torch@"
        ):
            open_side(remote(models.tiny, "torch@nightly"), "port", **AXES)

    def test_an_unknown_framework(self):
        with pytest.raises(UsageError, match="no framework 'fortran'"):
            backend("fortran@w")


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pytest", "_pytest", "hypothesis", "pluggy"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import pytest_fwcompare.workers.server
import numpy, torch
from pytest_fwcompare.workers.server import Server

class Sent(list):
    send = list.append

sent = Sent()
server = Server(sent, None, False)
server.do_import("torch")
model = server.do_make({{"kind": "factory", "module": "workers.models", "name": "tiny", "file": "",
                        "root": {root!r}}})["model"]
side = server.do_adopt("torch", model, dtype="float32", device="cpu", mode="eager", own=True)
print(len(server.do_parameters(side)), "parameters")
{extra}
"""


@pytest.mark.parametrize("extra", ["", "import hypothesis"])
def test_the_worker_needs_neither_pytest_nor_hypothesis(extra):
    code = BLOCKED.format(root=str(Path(__file__).parents[1]), extra=extra)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "4 parameters" in found.stdout, found.stderr
    # The second run shows that the blocker blocks.
    assert ("blocked: hypothesis" in found.stderr) == bool(extra)
    assert (found.returncode == 0) == (not extra)
