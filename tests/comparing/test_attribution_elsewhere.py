"""Is it Keras or the backend, where Keras runs on torch, JAX or TensorFlow in a worker?

The workers of this file have faults planted in their Keras, see `planted/sitecustomize.py`: one
layer wrong on every backend, one value and one gradient wrong on each. This process has none.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

for name in ("torch", "tensorflow", "keras", "jax"):
    pytest.importorskip(name)

from comparing import attributed_models  # noqa: E402
from comparing.planted.sitecustomize import BACKWARD, FORWARD  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare import TensorSpec  # noqa: E402
from pytest_fwcompare import networks as fn  # noqa: E402
from pytest_fwcompare.comparing import elsewhere  # noqa: E402
from pytest_fwcompare.sides import InFramework  # noqa: E402
from pytest_fwcompare.workers import pool  # noqa: E402

X = {"x": TensorSpec(("batch", 5))}
ON = ("tensorflow", "torch", "jax")


@pytest.fixture(scope="module", autouse=True)
def planted():
    """Workers with faults, each started once for this file."""
    folder = str(Path(__file__).parent / "planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FWCOMPARE_TESTS_PLANTED", "1")
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        before = pool.configure(pool.Settings(timeout=600.0))
        yield pool.current()
        pool.put_back(before)


def there(on, name):
    """A model of `attributed_models` in a worker."""
    return fwc.in_worker(f"keras@{on}", getattr(attributed_models, name))


def network(*more):
    """The network that `attributed_models.stack` makes, for other frameworks."""
    return fn.Sequential([fn.Dense(6), *more], input_shape=(5,))


def judged(reference, port, **options):
    """A comparison of few examples."""
    return fwc.compare(reference, port, **{"inputs": X, "examples": 2} | options)


@pytest.mark.parametrize("on", ON)
def test_every_layer_of_a_model_gets_its_answer(on):
    """Wrong everywhere, wrong here only, forward and backward, wrong elsewhere, right."""
    found = {
        one.layer: one for one in fwc.attribute(there(on, "all_kinds"), attributed_models.value())
    }
    assert found["dense"].answer == "your port: Keras does what it documents"
    assert found["tanh"].answer == "your port: Keras does what it documents"
    assert not found["tanh"].notes
    assert found["norm"].answer == "Keras: wrong on every backend"
    assert found["norm"].documented == "LayerNormalization"
    for wrong in (FORWARD, BACKWARD):
        assert found[wrong[on]].answer == f"backend: only {on}"
        for other in set(ON) - {on}:
            made = found[wrong[other]]
            assert made.fault == "port", "what is wrong elsewhere is no fault of this backend"
            assert made.notes == (f"on {other} Keras gives something else",)
    (own, raw, numpy, *others) = found[BACKWARD[on]].answers
    assert (own.who, own.agrees, own.reason) == (f"keras on {on}", False, "other gradients")
    assert own.forward < 1e-12
    assert own.backward > 1e-4
    assert (raw.who, raw.agrees, raw.backward < 1e-7) == (f"raw {on}", True, True)
    assert (numpy.who, numpy.agrees) == ("numpy", True)
    assert {one.who for one in others} == {
        f"keras on {name}" for name in elsewhere.BACKENDS if name != on
    }
    said = "the fault is in what Keras makes of it"
    assert any(said in note for note in found[FORWARD[on]].notes)
    assert not any(said in note for note in found["norm"].notes)


@pytest.mark.parametrize("on", ON)
def test_a_wrong_layer_is_named_in_a_comparison(on):
    found = judged(
        InFramework(network(fn.LayerNorm(epsilon=0.01)), "torch"), there(on, "with_norm")
    )
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.answer == "Keras: wrong on every backend"
    text = found.summary()
    assert "keras     Keras: wrong on every backend" in text
    assert f"keras on {on}" in text
    assert f"raw {on}" in text
    assert fwc.Comparison.from_json(found.to_json()).attribution == found.attribution


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("wrong", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_a_wrong_backend_is_named_in_a_comparison(on, wrong):
    described = network(fn.Activation(wrong[on]))
    found = judged(InFramework(described, "torch"), there(on, f"with_{wrong[on]}"))
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.answer == f"backend: only {on}"
    assert found.attribution.answers[0].reason == (
        "other outputs" if wrong is FORWARD else "other gradients"
    )


@pytest.mark.parametrize("on", ON)
def test_a_wrong_port_is_told_from_a_wrong_keras_and_asks_nobody(on, monkeypatch):
    def refuse(*args):
        raise AssertionError("no other backend is needed to tell")

    monkeypatch.setattr(elsewhere, "ask", refuse)
    found = judged(InFramework(network(fn.Activation("sigmoid")), "torch"), there(on, "with_tanh"))
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.answer == "your port: Keras does what it documents"
    assert [answer.who for answer in found.attribution.answers] == [
        f"keras on {on}", f"raw {on}", "numpy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "port", "wrong"),
    [("tensorflow", "jax", "tensorflow"), ("jax", "torch", "torch"), ("torch", "jax", "torch")],
)
def test_of_two_backends_the_wrong_one_is_named_in_either_role(reference, port, wrong):
    name = f"with_{FORWARD[wrong]}"
    found = judged(there(reference, name), there(port, name), examples=2)
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.answer == f"backend: only {wrong}"
    assert found.attribution.answers[0].who == f"keras on {wrong}"


def test_a_reference_of_keras_on_jax_is_asked_about_as_well():
    found = judged(
        there("jax", "with_softplus"), InFramework(network(fn.Activation("softplus")), "torch")
    )
    assert (found.verdict, found.reference) == ("semantic", "keras@jax")
    assert found.attribution is not None
    assert found.attribution.answer == "backend: only jax"


def test_a_fault_that_keras_really_has_on_torch():
    found = judged(
        there("jax", "image"),
        there("torch", "image"),
        inputs={"x": TensorSpec(("batch", 5, 6, 2))},
    )
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.layer == "average"
    assert found.attribution.answer == "backend: only torch"


def test_what_cannot_be_asked_says_why():
    described = InFramework(network(fn.Activation("tanh")), "torch")
    own = judged(described, there("jax", "with_own_code"))
    assert own.attribution is not None
    assert own.attribution.answer == "Keras or the backend: not asked"
    assert any("code of your own" in note for note in own.attribution.notes)


def test_a_layer_without_a_formula_is_told_by_most_backends():
    (dense, found) = fwc.attribute(there("torch", "with_unheard"), attributed_models.value())
    assert dense.fault == "port"
    assert found.fault == "undecided"
    assert found.notes[-2:] == (
        "no documented formula to hold it against: no formula for EinsumDense is known here",
        "the same on every backend, but no formula is known to hold it against",
    )


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    right = elsewhere.missing
    reason = "tensorflow is not installed"
    monkeypatch.setattr(elsewhere, "missing", lambda n: reason if n == "tensorflow" else right(n))
    found = fwc.attribute(there("jax", "with_softplus"), attributed_models.value())[1]
    assert found.answer == "backend: only jax"
    (left,) = [one for one in found.answers if one.who == "keras on tensorflow"]
    assert (left.agrees, left.reason) == (None, reason)


def test_workers_are_used_again_and_a_pass_starts_none(planted):
    started = dict(planted.started)
    assert max(started.values()) == 1 or planted.most < 4
    again = fwc.attribute(there("jax", "with_softplus"), attributed_models.value())
    assert again[1].answer == "backend: only jax"
    assert planted.most < 4 or dict(planted.started) == started

    def refuse(*args):
        raise AssertionError("nothing failed, so nothing is asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "ask", refuse)
        found = judged(
            InFramework(network(fn.Activation("tanh")), "torch"), there("jax", "with_tanh")
        )
    assert (found.verdict, found.attribution) == ("equivalent", None)
    assert np.isfinite(found.gap)


def test_a_difference_in_training_only_is_not_asked_about():
    """Another momentum: in inference, where it could be asked, the layer does what it should."""
    found = judged(
        InFramework(network(fn.BatchNorm(momentum=0.5, epsilon=1e-3)), "torch"),
        there("jax", "with_batch_norm"),
        checks=("forward", "backward", "training"),
    )
    assert (found.verdict, found.cause) == ("semantic", "running-statistics")
    assert found.attribution is not None
    assert found.attribution.fault == "unasked", "nobody looked at a step of training"


def test_own_code_after_a_right_layer_is_told():
    """The value of the dense layer is right; what comes after it in the port is nobody's layer."""
    described = network(fn.Activation("tanh"), fn.Activation("tanh"))
    found = judged(InFramework(described, "torch"), there("torch", "with_own_code"))
    assert found.attribution is not None
    assert found.attribution.fault in ("unasked", "port")
    assert any("code of your own (Mine)" in note for note in found.attribution.notes)


def test_without_a_culprit_all_layers_are_asked():
    """Keras on NumPy records nothing, so nobody knows where the difference begins."""
    sides = there("numpy", "with_softsign"), there("torch", "with_softsign")
    found = judged(*sides, checks=("forward",))
    assert (found.verdict, found.culprit) == ("semantic", None)
    assert found.attribution is not None
    assert (found.attribution.layer, found.attribution.answer) == ("act", "backend: only torch")
    assert found.attribution.notes[-1] == (
        "the difference begins in no layer of the port to be asked about, so all of them were "
        "asked about"
    )
    right = there("numpy", "with_tanh"), there("torch", "with_softplus")
    found = judged(*right, checks=("forward",))
    assert found.attribution is not None
    assert found.attribution.fault == "unasked", "no layer is wrong, the port is another function"
    assert found.attribution.notes[0].endswith(
        "; of its 2 layers of Keras, 2 alone do what Keras documents"
    )
