"""The odd setting of an optimizer: planted ones are named, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_fwcompare.diagnose.optimizers import Rule, Series, State
from pytest_fwcompare.diagnose.updates import explain_updates, misfit

ADAM = Rule("adam", 1e-3)
SGD = Rule("sgd", 0.1, momentum=0.9)


def run(rule: Rule, scale: float, rates=(None,) * 4, seed: int = 0) -> Series:
    """What a rule does over four steps; gradients and weights depend on the seed alone."""
    rng, state, made = np.random.default_rng(seed), State(rule), Series()
    for rate in rates:
        weights = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(3)}
        gradients = {name: scale * rng.standard_normal(w.shape) for name, w in weights.items()}
        made.gradients.append(gradients)
        made.weights.append(weights)
        made.updates.append(state.step(gradients, weights, rate))
        made.rates.append(rate)
    return made


def runs(rule: Rule, rates=(None,) * 4) -> list[Series]:
    return [run(rule, scale, rates) for scale in (1.0, 1e-3, 1e-6)]


def odd(reference: Rule, port: Rule, told: bool = False) -> dict:
    """Settings found odd; `told` lets the optimizers say what they are."""
    hints = (reference, port) if told else (None, None)
    found = explain_updates(runs(reference), runs(port), *hints)
    return {} if found is None else {o.setting: (o.expected, o.obtained) for o in found.oddities}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("base", "change"),
    [
        (ADAM, {"epsilon": 1e-7}),
        (ADAM, {"epsilon": 3.7e-6}),
        (ADAM, {"epsilon_place": "before correction"}),
        (ADAM, {"epsilon_root": 2e-9}),
        (ADAM, {"beta2": 0.99}),
        (ADAM, {"learning_rate": 7e-4}),
        (ADAM, {"amsgrad": True}),
        (ADAM, {"bias_correction": False}),
        (ADAM, {"clip_norm": 0.7}),
        (SGD, {"momentum": 0.83}),
        (SGD, {"nesterov": True}),
        (SGD, {"weight_decay": 0.013}),
        (SGD, {"clip_norm": 0.4}),
        (SGD, {"learning_rate": 0.05}),
    ],
)
def test_one_planted_setting_is_named(base, change, told):
    ((name, value),) = change.items()
    found = odd(base, replace(base, **change), told)
    assert set(found) == {name}
    expected, obtained = found[name]
    assert expected == getattr(base, name)
    assert obtained == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6))


def test_the_kind_of_decay_is_named():
    base = replace(ADAM, weight_decay=0.01)
    assert odd(base, replace(base, decay="decoupled"), told=True) == {"decay": ("l2", "decoupled")}


def test_two_planted_settings_are_named_together():
    port = replace(ADAM, epsilon=1e-7, epsilon_place="before correction")
    assert set(odd(ADAM, port)) == {"epsilon", "epsilon_place"}


def test_a_setting_that_changes_nothing_is_not_accused():
    """The port says that it clips, but no gradient ever reaches the limit."""
    port = replace(SGD, clip_norm=1e6, nesterov=True)
    assert set(odd(SGD, port, told=True)) == {"nesterov"}


def test_the_form_of_the_momentum_shows_under_a_schedule_only():
    other = replace(SGD, velocity="step")
    falling = (0.1, 0.05, 0.02, 0.01)
    found = explain_updates(runs(SGD, falling), runs(other, falling), SGD, None)
    assert found is not None
    assert [o.setting for o in found.oddities] == ["velocity"]
    assert "what the momentum keeps: step in the port" in found.sentences()[0]
    assert misfit(SGD, runs(other)) < 1e-12


def test_what_an_optimizer_says_of_itself_is_believed_only_if_it_fits():
    """The reference claims another epsilon than it uses; the truth is found from its updates."""
    found = explain_updates(
        runs(ADAM), runs(replace(ADAM, beta2=0.99)), replace(ADAM, epsilon=1e-3), None
    )
    assert found is not None
    assert {o.setting for o in found.oddities} == {"beta2"}


def test_updates_of_no_known_rule_are_left_unexplained(monkeypatch):
    monkeypatch.setattr("pytest_fwcompare.diagnose.updates.BUDGET_S", 1.0)
    port = runs(SGD)
    rng = np.random.default_rng(9)
    for series in port:
        for updates in series.updates:
            updates["w"] = updates["w"] * rng.uniform(0.5, 2, updates["w"].shape)
    assert explain_updates(runs(SGD), port, SGD, None) is None


def test_one_wrong_element_is_a_misfit():
    series = run(SGD, 1.0)
    assert misfit(SGD, [series]) == 0
    series.updates[2]["b"][1] *= 1 + 1e-6
    assert 1e-8 < misfit(SGD, [series]) < 1e-5
    series.updates[2]["b"][1] = np.nan
    assert misfit(SGD, [series]) == float("inf")
