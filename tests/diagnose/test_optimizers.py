"""Optimizer formulas against torch's own, and limits of gradients."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.diagnose.optimizers import Rule, RuleStepper, State, clipped, norm_of

torch = pytest.importorskip("torch")

SETTINGS = [
    (Rule("sgd", 0.1), torch.optim.SGD, {"lr": 0.1}),
    (
        Rule("sgd", 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    (
        Rule("sgd", 0.1, momentum=0.8, dampening=0.3),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.3},
    ),
    (
        Rule("adam", 1e-3, beta2=0.99, epsilon=1e-4, weight_decay=0.1),
        torch.optim.Adam,
        {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-4, "weight_decay": 0.1},
    ),
    (
        Rule("adam", 1e-3, weight_decay=0.01, decay="decoupled", amsgrad=True),
        torch.optim.AdamW,
        {"lr": 1e-3, "amsgrad": True},
    ),
    (
        Rule("rmsprop", 1e-2, beta2=0.9, centered=True),
        torch.optim.RMSprop,
        {"lr": 1e-2, "alpha": 0.9, "centered": True},
    ),
    (
        Rule("adagrad", 1e-2, epsilon=1e-10, initial=0.1),
        torch.optim.Adagrad,
        {"lr": 1e-2, "initial_accumulator_value": 0.1},
    ),
]


@pytest.mark.parametrize(("rule", "kind", "keywords"), SETTINGS)
def test_a_rule_does_what_torch_does(rule, kind, keywords):
    from pytest_fwcompare.backends.torch.optimizers import rule_of

    rng = np.random.default_rng(0)
    weight = torch.nn.Parameter(torch.from_numpy(rng.standard_normal((3, 4))))
    optimizer, state = kind([weight], **keywords), State(rule)
    assert rule_of(kind, optimizer.param_groups[0]) == rule
    for step in range(4):
        # AMSGrad shows only once gradients shrink.
        gradient = rng.standard_normal((3, 4)) * 10.0 ** (-step)
        before = weight.detach().numpy().copy()
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        made = state.step({"w": gradient}, {"w": before}, None)["w"]
        np.testing.assert_allclose(before + made, weight.detach().numpy(), rtol=1e-13)


def test_the_velocity_keeps_the_gradient_or_the_step():
    """Equal while the learning rate is constant; after a drop the step form goes on as before."""
    gradient, weight = {"w": np.ones(2)}, {"w": np.zeros(2)}
    for rates, equal in (((0.1, 0.1), True), ((0.1, 0.01), False)):
        made = []
        for velocity in ("gradient", "step"):
            state = State(Rule("sgd", momentum=0.5, velocity=velocity))
            made.append([state.step(gradient, weight, rate)["w"][0] for rate in rates])
        np.testing.assert_allclose(made[0][1] == made[1][1], equal)
    assert made[1][1] == pytest.approx(-(0.5 * 0.1 + 0.01))


def test_the_two_places_of_epsilon():
    gradient, weight = {"w": np.full(1, 1e-6)}, {"w": np.zeros(1)}
    made = {
        place: State(Rule("adam", 1.0, epsilon=1e-6, epsilon_place=place)).step(
            gradient, weight, None
        )["w"][0]
        for place in ("after root", "before correction")
    }
    assert made["after root"] == pytest.approx(-0.5)
    # sqrt(v) is 0.0316 |g| at the first step, so epsilon weighs 31.6 times as much.
    assert made["before correction"] == pytest.approx(-1 / (1 + 1 / 0.001**0.5))


def test_gradients_within_limits():
    given = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, -4.0])}
    whole = clipped(Rule("sgd", clip_norm=1.0), given)
    assert norm_of(list(whole.values())) == pytest.approx(1.0)
    np.testing.assert_allclose(whole["a"], [0.6, 0.0])
    each = clipped(Rule("sgd", clip_each=2.0), given)
    np.testing.assert_allclose(each["b"], [0.0, -2.0])
    value = clipped(Rule("sgd", clip_value=3.5), given)
    np.testing.assert_allclose(value["b"], [0.0, -3.5])
    np.testing.assert_allclose(value["a"], given["a"])
    untouched = clipped(Rule("sgd", clip_norm=5.1), given)
    np.testing.assert_array_equal(untouched["a"], given["a"])


def test_a_rule_is_an_optimizer_in_any_dtype():
    stepper = RuleStepper(Rule("sgd", 0.5), {"w": np.zeros(2)}, dtype="float32", role="port")
    after = stepper.step({"w": np.ones(2)}, {"w": np.full(2, 2.0)})
    assert after["w"].dtype == np.float32
    np.testing.assert_array_equal(after["w"], [1.5, 1.5])
    assert stepper.rule() == Rule("sgd", 0.5)
