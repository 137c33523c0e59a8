"""`compare_training`: right pairs pass, odd settings are named, mistakes refused."""

from __future__ import annotations

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.diagnose.optimizers import Rule
from pytest_fwcompare.progress import listening

torch = pytest.importorskip("torch")
optim = torch.optim

INPUTS = {"features": fwc.TensorSpec(("batch", 6))}
LABELS = {"labels": fwc.TensorSpec(("batch", 3))}


def network():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    )


@pytest.fixture(scope="module")
def keras_network():
    keras = pytest.importorskip("keras")
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(3),
        ]
    )


def plain():
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


@pytest.fixture(scope="module")
def plain_keras():
    keras = pytest.importorskip("keras")
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])


def trained(reference, port, ours, theirs, **keywords) -> fwc.Comparison:
    keywords.setdefault("steps", 3)
    return fwc.compare_training(
        reference,
        port,
        inputs=INPUTS,
        optimizer={"reference": ours, "port": theirs},
        **keywords,
    )


def adam(**keywords):
    return lambda parameters: optim.Adam(parameters, lr=1e-3, **keywords)


def sgd(**keywords):
    return lambda parameters: optim.SGD(parameters, lr=0.1, **keywords)


# Right pairs ------------------------------------------------------------------------------------


def test_equal_optimizers_are_equivalent_in_torch():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = trained(model, network(), adam(), adam())
    assert found.verdict == "equivalent", found.summary()
    assert found.gap == 0
    assert {row.name for row in found.tensors if row.kind == "update"} == {
        f"update of {name}" for name, _ in model.named_parameters()
    }
    assert found.examples.count == 9  # three steps at three scales of the loss
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_torch_and_keras_agree_on_momentum_and_decay(plain_keras):
    keras = pytest.importorskip("keras")
    for ours, theirs in (
        (sgd(momentum=0.9, nesterov=True), keras.optimizers.SGD(0.1, 0.9, nesterov=True)),
        (
            lambda p: optim.AdamW(p, lr=1e-3, eps=1e-300, weight_decay=0.01),
            lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-300),
        ),
    ):
        found = trained(plain(), plain_keras, ours, theirs, dtype="float64")
        assert found.verdict == "equivalent", found.summary()


def test_torch_and_keras_agree_in_float32(plain_keras):
    keras = pytest.importorskip("keras")
    found = trained(plain(), plain_keras, sgd(momentum=0.9), keras.optimizers.SGD(0.1, 0.9))
    assert found.verdict == "equivalent", found.summary()
    assert found.gap < 1e-9


def test_a_rule_in_numpy_stands_in_for_an_optimizer():
    found = trained(plain(), plain(), adam(), Rule("adam", 1e-3))
    assert found.verdict == "equivalent", found.summary()


def test_schedules_of_the_framework_and_by_hand_agree():
    def halving(parameters):
        optimizer = optim.SGD(parameters, lr=0.1, momentum=0.9)
        return optimizer, optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    by_hand = {"reference": lambda step: 0.1 * 0.5**step, "port": lambda step: 0.1 / 2**step}
    found = trained(plain(), plain(), sgd(momentum=0.9), halving, learning_rate_schedule=by_hand)
    assert found.verdict == "equivalent", found.summary()


# Odd ones ---------------------------------------------------------------------------------------


def said(found: fwc.Comparison) -> str:
    assert found.verdict == "semantic", found.summary()
    assert found.cause == "optimizer", found.summary()
    with pytest.raises(AssertionError, match="semantic"):
        found.assert_equivalent()
    return "\n".join(found.evidence)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (adam(), adam(eps=1e-7), "epsilon: 1e-07 in the port, 1e-08 in the reference"),
        (adam(), adam(betas=(0.9, 0.99)), "beta2: 0.99 in the port, 0.999 in the reference"),
        (
            adam(weight_decay=0.01),
            lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.01),
            "the kind of weight decay: decoupled in the port, l2 in the reference",
        ),
        (
            sgd(),
            lambda p: (
                optim.SGD(p, lr=0.1),
                lambda: torch.nn.utils.clip_grad_norm_(p, 0.5),
            ),
            "clipping by the global norm: 0.5 in the port, 0 in the reference",
        ),
        (sgd(momentum=0.9), sgd(momentum=0.8), "momentum: 0.8 in the port, 0.9 in the reference"),
    ],
)
def test_the_odd_setting_is_named(ours, theirs, words):
    assert words in said(trained(plain(), plain(), ours, theirs))


def test_epsilon_and_its_place_between_torch_and_keras(plain_keras):
    keras = pytest.importorskip("keras")
    text = said(trained(plain(), plain_keras, adam(), keras.optimizers.Adam(1e-3)))
    assert "epsilon: 1e-07 in the port, 1e-08 in the reference" in text
    assert "the place of epsilon: before correction in the port, after root" in text


def test_the_form_of_the_momentum_under_a_schedule(plain_keras):
    keras = pytest.importorskip("keras")
    found = trained(
        plain(),
        plain_keras,
        sgd(momentum=0.9),
        keras.optimizers.SGD(0.1, 0.9),
        learning_rate_schedule=lambda step: 0.1 * 0.5**step,
    )
    assert "what the momentum keeps: step in the port, gradient in the reference" in said(found)


def test_optax_tells_nothing_and_is_found_out():
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")

    def run(tree, features):
        hidden = jax.numpy.tanh(features @ tree["w1"] + tree["b1"])
        return hidden @ tree["w2"] + tree["b2"]

    shapes = {"w1": (6, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    model = run, {name: jax.numpy.ones(shape) for name, shape in shapes.items()}
    right = trained(plain(), model, adam(), optax.adam(1e-3))
    assert right.verdict == "equivalent", right.summary()
    text = said(trained(plain(), model, adam(), optax.adam(1e-3, eps_root=1e-8)))
    assert "the epsilon under the root: 1e-08 in the port, 0 in the reference" in text
    with pytest.raises(fwc.UsageError, match=r"make it with optax.inject_hyperparams"):
        trained(plain(), model, adam(), optax.adam(1e-3), learning_rate_schedule=lambda s: 0.1)


def test_another_schedule_is_told_by_its_first_odd_step():
    rates = {"reference": lambda step: 0.1, "port": lambda step: 0.1 if step < 2 else 0.2}
    found = trained(plain(), plain(), sgd(), sgd(), learning_rate_schedule=rates)
    assert "the learning rate of step 3 is 0.2 in the port, 0.1 in the reference" in said(found)


def test_a_frozen_parameter_of_the_port():
    port = plain()
    port[0].weight.requires_grad_(False)
    found = trained(plain(), port, sgd(), sgd())
    assert found.verdict == "semantic"
    assert "the port does not train 0.weight" in found.evidence
    odd = [row.name for row in found.tensors if row.verdict == "semantic"]
    assert "update of 0.weight" in odd
    assert "update of 2.weight" not in odd
    turned = trained(port, plain(), sgd(), sgd())
    assert turned.verdict == "semantic"
    assert "the port trains 0.weight, which the reference keeps" in turned.evidence
    assert trained(port, port, sgd(), sgd()).verdict == "equivalent"


class HalfMomentum:
    """Momentum kept in float16, as a memory saver would."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.held = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self):
        for parameter, held in zip(self.parameters, self.held, strict=True):
            held.mul_(0.9).add_(parameter.grad)
            if held.dtype is not torch.float64:
                held.copy_(held.half())
            parameter.sub_(0.1 * held)


def test_a_state_in_half_precision_is_precision():
    found = trained(plain(), plain(), sgd(momentum=0.9), HalfMomentum)
    assert found.verdict == "precision", found.summary()
    assert "off its own float64 update" in found.evidence[0]


def test_losses_are_judged_by_themselves(plain_keras):
    keras = pytest.importorskip("keras")
    mean = torch.nn.functional.mse_loss
    right = trained(
        plain(),
        plain_keras,
        sgd(),
        keras.optimizers.SGD(0.1),
        loss={"reference": mean, "port": keras.losses.MeanSquaredError()},
        targets=LABELS,
    )
    assert right.verdict == "equivalent", right.summary()

    def summed(output, labels):
        return ((output - labels) ** 2).sum()

    wrong = trained(
        plain(), plain(), sgd(), sgd(), loss={"reference": mean, "port": summed}, targets=LABELS
    )
    assert wrong.verdict == "semantic"
    assert wrong.evidence[0].startswith("the losses differ: gradient of the loss by output")
    assert wrong.cause is None


def test_networks_that_differ_are_not_blamed_on_optimizers():
    port = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    found = trained(plain(), port, adam(), adam(eps=1e-7))
    assert found.verdict == "semantic"
    assert found.evidence[0].startswith("the networks themselves differ")
    assert found.cause is None


def test_running_statistics_are_part_of_training(keras_network):
    keras = pytest.importorskip("keras")
    found = trained(network(), keras_network, sgd(), keras.optimizers.SGD(0.1))
    # Keras keeps the biased variance, torch the unbiased one.
    odd = [row.name for row in found.tensors if row.verdict == "semantic"]
    assert odd == ["buffer 1.running_var"]


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"steps": 0}, "steps: expected an integer of at least 1, got 0"),
        ({"scales": (1.0, -1.0)}, "scales: expected positive factors of the loss"),
        ({"learning_rate_schedule": 0.1}, "learning_rate_schedule: expected a function"),
        ({"loss": torch.nn.functional.mse_loss}, 'loss: expected {"reference": function'),
        ({"targets": LABELS}, "targets: labels given without loss"),
    ],
)
def test_wrong_arguments_are_refused(keywords, words):
    with pytest.raises(fwc.UsageError) as caught:
        trained(plain(), plain(), sgd(), sgd(), **keywords)
    assert words in str(caught.value)


def test_wrong_optimizers_are_refused(plain_keras):
    with pytest.raises(fwc.UsageError, match="expected a function of the list of parameters"):
        trained(plain(), plain(), sgd(), 0.1)
    with pytest.raises(fwc.UsageError, match=r"which has no\s+step\(\)"):
        trained(plain(), plain(), sgd(), lambda parameters: "adam")
    with pytest.raises(fwc.UsageError, match="the port is a keras or tensorflow model"):
        trained(plain(), plain_keras, sgd(), lambda: "adam")
    with pytest.raises(fwc.UsageError, match=r'expected {"reference": ..., "port": ...}'):
        fwc.compare_training(plain(), plain(), inputs=INPUTS, optimizer=sgd())


def test_an_optimizer_that_raises_is_an_error_of_its_role():
    class Broken:
        def step(self):
            raise RuntimeError("no steps today")

    found = trained(plain(), plain(), sgd(), lambda parameters: Broken())
    assert found.verdict == "error"
    assert found.message == "port, optimizer: the optimizer raised RuntimeError: no steps today"


def test_parameters_that_are_sums_are_left_out_and_said():
    """Two biases that are added learn twice as fast as the one they become."""
    keras = pytest.importorskip("keras")
    inputs = {"steps": fwc.TensorSpec(("batch", "time", 4))}

    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

        def forward(self, steps):
            return self.lstm(steps)[0]

    port = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(3, return_sequences=True)])
    found = fwc.compare_training(
        Last(),
        port,
        inputs=inputs,
        optimizer={"reference": sgd(), "port": keras.optimizers.SGD(0.1)},
        steps=2,
    )
    assert found.verdict == "equivalent", found.summary()
    assert any(
        "made from lstm.bias_ih_l0 and lstm.bias_hh_l0, and only parameters" in text
        for text in found.notices
    )
    updates = {row.name for row in found.tensors if row.kind == "update"}
    assert updates == {"update of lstm.weight_ih_l0", "update of lstm.weight_hh_l0"}


def dropping(rate: float):
    layers = [torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Dropout(rate)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(5, 3))


@pytest.mark.parametrize(("rate", "verdict"), [(0.5, "equivalent"), (0.4, "semantic")])
def test_dropout_is_compared_with_masks_of_one_stream(rate, verdict):
    keras = pytest.importorskip("keras")
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dropout(rate)]
    port = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.1)
    found = trained(
        dropping(0.5), port, lambda given: optim.SGD(given, lr=0.1), optimizer, scales=(1.0,)
    )
    assert found.verdict == verdict, found.summary()
    assert not any("inference mode" in text for text in found.notices)


def test_every_step_is_told_while_it_runs():
    heard: list[str] = []
    with listening(lambda step: heard.append(str(step))):
        trained(plain(), plain(), sgd(), sgd(), steps=2, scales=(1.0, 1e-3))
    assert heard[:3] == ["opening the reference", "opening the port", "pairing the weights"]
    assert [text for text in heard if text.startswith("training step")] == [
        f"training step {number} of 4" for number in range(1, 5)
    ]
