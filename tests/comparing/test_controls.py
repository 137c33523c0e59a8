"""A pass is proved to have been able to fail, and one that was not is an error."""

from __future__ import annotations

from typing import Any

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.comparing.controls import nothing_noticed
from pytest_fwcompare.records import Control, Controls

torch = pytest.importorskip("torch")
nn = torch.nn

ROWS = {"features": fwc.TensorSpec((3, 6), kind="normal")}


def reference() -> Any:
    return nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5, eps=1e-3), nn.LeakyReLU(0.3), nn.Linear(5, 3)
    )


def keras_port() -> Any:
    keras = pytest.importorskip("keras")
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.LeakyReLU(negative_slope=0.3, name="leaky"),
            keras.layers.Dense(3),
        ]
    )


def nnx_port() -> Any:
    nnx = pytest.importorskip("flax.nnx")

    class Port(nnx.Module):
        def __init__(self, rngs):
            self.lift, self.read = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
            self.norm = nnx.LayerNorm(5, epsilon=1e-3, rngs=rngs)

        def __call__(self, x):
            return self.read(nnx.leaky_relu(self.norm(self.lift(x)), 0.3))

    return Port(nnx.Rngs(0))


def equinox_port() -> Any:
    eqx = pytest.importorskip("equinox")
    import jax

    class Port(eqx.Module):
        lift: Any
        norm: Any
        read: Any

        def __call__(self, x):
            def one(x):
                return self.read(jax.nn.leaky_relu(self.norm(self.lift(x)), 0.3))

            return jax.vmap(one)(x)

    keys = jax.random.split(jax.random.key(0))
    linear = [eqx.nn.Linear(*s, key=k) for s, k in zip(((6, 5), (5, 3)), keys, strict=True)]
    return Port(linear[0], eqx.nn.LayerNorm(5, eps=1e-3), linear[1])


def judged(port: Any, ours: Any = None, **options: Any) -> fwc.Comparison:
    return fwc.compare(ours or reference(), port, inputs=ROWS, examples=6, **options)


@pytest.mark.parametrize(
    ("port", "names"),
    [
        (reference, {"1.eps", "2.negative_slope"}),
        (keras_port, {"norm.epsilon", "leaky.negative_slope"}),
        (nnx_port, {"norm.epsilon"}),
        (equinox_port, {"norm.eps"}),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_thorough_controls_find_the_smallest_disturbance(port, names):
    found = judged(port(), thorough=True)
    assert found.passed, found.summary()
    tried = {control.target: control for control in found.controls.tried}
    ends = {name.split("/")[-1]: control for name, control in tried.items()}
    assert names <= set(ends), tried
    assert all(control.noticed for control in tried.values()), tried
    weights = [c for name, c in tried.items() if name.split("/")[-1] not in names]
    assert len(weights) == 6
    assert all(control.size < 1e-3 for control in weights), weights
    assert all(ends[name].size >= 0.1 for name in names)


def test_quick_controls_are_few():
    layers = [nn.Linear(6, 6) for _ in range(12)]
    found = judged(nn.Sequential(*layers), nn.Sequential(*layers))
    assert len(found.controls.tried) == 8
    assert all(control.size == 1e-3 for control in found.controls.tried)


def test_buffers_are_disturbed_too():
    def normed() -> Any:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))

    found = judged(normed(), normed())
    assert {"1.running_mean", "1.running_var"} <= {c.target for c in found.controls.tried}
    assert found.controls.caught == len(found.controls.tried)


class Deaf(nn.Module):
    """Its output does not depend on what it holds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, features):
        return 2 * features + 0 * self.linear(features)


def test_a_pass_that_could_not_have_failed_is_an_error():
    found = judged(Deaf(), Deaf())
    assert found.verdict == "error"
    assert "this comparison could not have failed: the port's linear.weight, linear.bias" in (
        found.message
    )
    assert not found.passed
    assert {control.size for control in found.controls.tried} == {1.0}


def test_integer_outputs_notice_large_disturbances():
    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, features):
            return self.linear(features).argmax(1)

    torch.manual_seed(0)
    one = Chosen()
    found = judged(one, one, checks=("forward",))
    assert found.verdict == "equivalent", found.summary()
    assert found.controls.caught


def test_networks_without_parameters_pass():
    found = judged(nn.Tanh(), nn.Tanh())
    assert found.passed
    assert found.controls.tried == ()


def test_one_noticed_disturbance_is_enough():
    tried = (Control("a", 1e-3, False, 0.1), Control("b", 1e-3, True, 50.0))
    assert nothing_noticed(Controls(tried)) is None
    assert nothing_noticed(Controls()) is None
    said = nothing_noticed(Controls(tried[:1] * 6))
    assert said is not None
    assert "the port's a, a, a, a and 2 more were changed" in said
