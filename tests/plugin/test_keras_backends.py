"""A user whose Keras runs on JAX or torch in the process of the tests: is it Keras or the backend?

The Keras of these runs, here and in the workers, has the faults of `comparing/planted`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

for name in ("torch", "keras", "jax"):
    pytest.importorskip(name)

from comparing.planted.sitecustomize import BACKWARD, FORWARD  # noqa: E402

PLANTED = Path(__file__).parents[1] / "comparing" / "planted"

PROJECT = """
import keras
import pytest
import torch
from pytest_fwcompare import TensorSpec

layers = keras.layers

def torch_model(*more):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), *more)

def keras_model(*more):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, name="dense"), *more])

NORMS = {{"wrong": 0.01, "port": 0.001}}

@pytest.mark.parametrize("name", ["{forward}", "{backward}", "batch", "norm"])
def test_port(fwcompare_port, name):
    if name == "norm":
        sides = (torch.nn.LayerNorm(5, eps=0.01),
                 layers.LayerNormalization(epsilon=0.01, name=name))
    elif name == "batch":
        sides = torch.nn.BatchNorm1d(5), layers.BatchNormalization(name=name)
    else:
        made = dict(softsign=torch.nn.Softsign, softplus=torch.nn.Softplus, gelu=torch.nn.GELU,
                    silu=torch.nn.SiLU, hard_sigmoid=torch.nn.Hardsigmoid, elu=torch.nn.ELU)
        sides = made[name](), layers.Activation(name, name=name)
    fwcompare_port(torch_model(sides[0]), keras_model(sides[1]),
                   inputs={{"x": TensorSpec(("batch", 4))}}, examples=2)
"""


@pytest.mark.parametrize(
    "on", ["jax", pytest.param("torch", marks=pytest.mark.slow),
           pytest.param("tensorflow", marks=pytest.mark.slow)]
)  # fmt: skip
def test_each_fault_gets_its_answer_in_every_report(pytester, monkeypatch, on):
    pytest.importorskip(on)
    monkeypatch.setenv("KERAS_BACKEND", on)
    monkeypatch.delenv("CI", raising=False)  # pytest repeats whole messages there
    monkeypatch.setenv("FWCOMPARE_TESTS_PLANTED", "1")
    monkeypatch.setenv("PYTHONPATH", str(PLANTED), prepend=os.pathsep)
    pytester.makepyfile(PROJECT.format(forward=FORWARD[on], backward=BACKWARD[on]))
    result = pytester.runpytest_subprocess(
        "--fwcompare", "--fwcompare-no-timings", "--junitxml=junit.xml",
        "--fwcompare-report=run.json", "--fwcompare-report=run.html", "-p", "no:cacheprovider",
    )  # fmt: skip
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    only = f"keras     backend: only {on}"
    assert text.count(only) == 2
    assert text.count("keras     Keras: wrong on every backend") == 1
    assert text.count("keras     your port: Keras does what it documents") == 1
    assert text.count(f"raw {on} gives what is documented") == 2
    assert f"{BACKWARD[on]} against the documented formula of Activation in NumPy" in text
    assert "it sends a wrong gradient back to dense" in text
    junit = Path("junit.xml").read_text()
    assert junit.count(f'"fwcompare.attribution" value="backend: only {on}"') == 2
    assert '"fwcompare.attribution" value="Keras: wrong on every backend"' in junit
    made = json.loads(Path("run.json").read_text())["comparisons"]
    found = sorted(one["comparison"]["attribution"]["fault"] for one in made)
    assert found == ["backend", "backend", "keras", "port"]
    assert f"backend: only {on}" in Path("run.html").read_text()
