"""JAX models of every kind as sides: names, values, gradients, buffers, errors, no traces left."""

import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
eqx = pytest.importorskip("equinox")

from jax import numpy as jnp  # noqa: E402

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.jax import JaxBackend  # noqa: E402
from pytest_fwcompare.errors import (  # noqa: E402
    FrameworkUnavailable,
    ModelError,
    UsageError,
)

BACKEND = JaxBackend()
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Nnx(nnx.Module):
    """Shares a kernel; dropout and batch statistics."""

    def __init__(self, rngs):
        self.lift = nnx.Linear(3, 5, rngs=rngs)
        self.blocks = nnx.List([nnx.BatchNorm(5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])
        self.tied = self.lift.kernel

    def __call__(self, x):
        x = self.lift(x)
        for block in self.blocks:
            x = block(x)
        return x @ self.tied.T


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    rest: list
    scale: float
    table: np.ndarray
    name: str = eqx.field(static=True)

    def __init__(self, key):
        self.first = eqx.nn.Linear(3, 4, key=key)
        self.rest = [eqx.nn.LayerNorm(4), {"out": eqx.nn.Linear(4, 2, key=key)}]
        self.scale = 2.0
        self.table = np.ones(2, np.float32)
        self.name = "equinox"

    def __call__(self, x):
        return jax.vmap(lambda v: self.rest[1]["out"](self.rest[0](self.first(v))))(x) * self.scale


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dense(5, name="lift")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(2)(x)


def make_nnx():
    model = Nnx(nnx.Rngs(0))
    model.eval()
    return model


def make_linen():
    module = Linen()
    return module, module.init(jax.random.key(0), X)


def make_pair():
    params = {"w": [jnp.ones((3, 2)) * 0.3], "b": np.zeros(2, np.float32), "unused": jnp.ones(2)}
    return (lambda p, x: jnp.tanh(x @ p["w"][0] + p["b"])), params


MAKERS = {
    "nnx": make_nnx,
    "equinox": lambda: Equinox(jax.random.key(0)),
    "linen": make_linen,
    "pair": make_pair,
}


def adopt(model, mode="eager", own=False, dtype="float32"):
    return BACKEND.adopt(model, dtype=dtype, device="cpu", mode=mode, own=own)


def run(side, *values, precision="double", **how):
    arguments = [Argument(f"x{i}", value) for i, value in enumerate(values or (X,))]
    return side.forward(arguments, precision=precision, **how)


def ones(passed):
    return {name: np.ones(value.shape) for name, value in passed.outputs.items()}


def leaves(model):
    if isinstance(model, nnx.Module):
        model = nnx.state(model)
    elif isinstance(model, tuple):
        model = model[1]
    found = jax.tree_util.tree_leaves(model)
    numbers = [
        x
        for x in found
        if hasattr(x, "dtype") and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
    ]
    return [(id(x), np.array(x)) for x in numbers]


@pytest.mark.parametrize("kind", MAKERS)
def test_owns_models(kind):
    assert BACKEND.owns(MAKERS[kind]())


@pytest.mark.parametrize(
    "other",
    [
        np.ones(3),
        jnp.ones(3),
        lambda x: x,
        (lambda p, x: x, "text"),
        (lambda p, x: x, {"w": object()}),
        (lambda p, x: x, {}),
        (Linen(), None),
        Linen(),
        (1, {"w": np.ones(3)}),
        (lambda p, x: x, {"w": np.ones(3)}, 3),
        None,
    ],
    ids=[str(number) for number in range(11)],
)
def test_owns_nothing_else(other):
    assert not BACKEND.owns(other)


def test_looking_imports_no_framework():
    code = (
        "import sys; from pytest_fwcompare.backends.jax import JaxBackend; "
        "JaxBackend().owns((len, {})); JaxBackend().unavailable(); "
        "sys.exit(bool({'jax', 'flax', 'equinox'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def described(model):
    return {
        p.name: (p.shape, p.trainable, p.layer, p.kind, p.aliases)
        for p in adopt(model).parameters()
    }


def test_parameters_of_nnx():
    assert (
        described(make_nnx())
        == {
            "lift.kernel": ((3, 5), True, "lift", "Linear", ("tied",)),
            "lift.bias": ((5,), True, "lift", "Linear", ()),
            "blocks.0.scale": ((5,), True, "blocks.0", "BatchNorm", ()),
            "blocks.0.bias": ((5,), True, "blocks.0", "BatchNorm", ()),
            "blocks.0.mean": ((5,), False, "blocks.0", "BatchNorm", ()),
            "blocks.0.var": ((5,), False, "blocks.0", "BatchNorm", ()),
        }
        | {}
    )
    assert list(described(make_nnx()))[:2] == ["lift.kernel", "lift.bias"]


def test_parameters_of_equinox():
    found = described(Equinox(jax.random.key(0)))
    assert list(found) == [
        "first.weight",
        "first.bias",
        "rest.0.weight",
        "rest.0.bias",
        "rest.1.out.weight",
        "rest.1.out.bias",
        "table",
    ]
    assert found["rest.1.out.weight"] == ((2, 4), True, "rest.1.out", "Linear", ())
    assert found["table"][1] is True
    norm = next(p for p in adopt(Equinox(jax.random.key(0))).parameters() if p.layer == "rest.0")
    assert norm.options["eps"] == 1e-5


def test_parameters_of_linen_are_known_by_class_after_a_look():
    side = adopt(make_linen())
    side.prepare([Argument("x", X)])
    kinds = {p.name: (p.kind, p.trainable) for p in side.parameters()}
    assert kinds == {
        "lift.kernel": ("Dense", True),
        "lift.bias": ("Dense", True),
        "BatchNorm_0.scale": ("BatchNorm", True),
        "BatchNorm_0.bias": ("BatchNorm", True),
        "BatchNorm_0.mean": ("BatchNorm", False),
        "BatchNorm_0.var": ("BatchNorm", False),
        "Dense_0.kernel": ("Dense", True),
        "Dense_0.bias": ("Dense", True),
    }
    assert next(iter(kinds)) == "lift.kernel"
    assert next(iter(side.parameters())).options["features"] == 5


def test_the_same_array_twice_is_no_tie():
    shared = jnp.ones(3)
    side = adopt((lambda p, x: x * p["a"] + 2 * p["b"], {"a": shared, "b": shared}))
    assert [p.aliases for p in side.parameters()] == [(), ()]
    passed = run(side)
    gradients = passed.backward(ones(passed)).parameters
    np.testing.assert_allclose(gradients["a"], X.astype(float).sum(0))
    np.testing.assert_allclose(gradients["b"], np.full(3, 8.0))


def test_parameters_of_a_pair():
    assert list(described(make_pair())) == ["w.0", "b", "unused"]


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_are_those_of_central_differences(kind):
    side = adopt(MAKERS[kind]())
    passed = run(side)
    found = passed.backward(ones(passed))
    held = side.read()
    rng = np.random.default_rng(3)
    for name, gradient in found.parameters.items():
        direction = rng.standard_normal(gradient.shape)
        sums = []
        for step in (1e-6, -1e-6):
            side.load({name: held[name] + step * direction}, "double")
            sums.append(sum(value.sum() for value in run(side).outputs.values()))
        side.load({name: held[name]}, "double")
        assert (sums[0] - sums[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), abs=1e-7)


@pytest.mark.parametrize("kind", MAKERS)
def test_working_precision_is_that_of_the_model_itself(kind):
    model = MAKERS[kind]()
    expected = {
        "nnx": lambda: model(X),
        "equinox": lambda: model(X),
        "linen": lambda: model[0].apply(model[1], X),
        "pair": lambda: model[0](model[1], X),
    }[kind]()
    side = adopt(model)
    eager = run(side, precision="working", gradients=False)
    assert eager.outputs["output"].dtype == np.float32
    np.testing.assert_array_equal(eager.outputs["output"], np.asarray(expected))
    together = run(side, precision="working").outputs["output"]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.asarray(expected), rtol=0, atol=1e-6)
    double = run(side).outputs["output"]
    assert double.dtype == np.float64
    assert 0 < np.abs(double - expected).max() < 1e-5


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_modes_agree(mode):
    eager, other = adopt(make_pair()), adopt(make_pair(), mode)
    first, second = (run(side, precision="working") for side in (eager, other))
    np.testing.assert_allclose(first.outputs["output"], second.outputs["output"], rtol=1e-6)
    first, second = (p.backward(ones(p)) for p in (first, second))
    np.testing.assert_allclose(first.parameters["w.0"], second.parameters["w.0"], rtol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_users_model_is_untouched(kind):
    model = MAKERS[kind]()
    before = leaves(model)
    with adopt(model) as side:
        for name, value in side.read().items():
            for precision in ("working", "double"):
                side.load({name: value + 1}, precision)
        _ = side.model
        for training in (False, True):
            if not (training and kind == "equinox"):
                passed = run(side, training=training)
                passed.backward(ones(passed))
        with pytest.raises(ModelError):
            run(side, np.ones((2, 7), np.float32))
    after = leaves(model)
    assert [i for i, _ in before] == [i for i, _ in after]
    for (_, old), (_, new) in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("enabled", [False, True])
def test_64_bit_mode_is_left_as_it_was_and_not_used_for_float32(enabled):
    with jax.enable_x64(enabled):
        side = adopt(make_pair())
        working, double = run(side, precision="working"), run(side)
        assert working.outputs["output"].dtype == np.float32
        assert double.outputs["output"].dtype == np.float64
        assert working.backward(ones(working)).parameters["b"].dtype == np.float32
        assert jax.config.jax_enable_x64 is enabled


def test_a_copy_function_may_change_the_twin_in_place():
    model = Equinox(jax.random.key(0))
    side = adopt(model)
    object.__setattr__(side.model.first, "bias", jnp.full(4, 7.0))
    np.testing.assert_array_equal(side.read()["first.bias"], np.full(4, 7.0))
    assert not np.any(np.asarray(model.first.bias) == 7.0)
    expected = np.asarray(side.model(X))
    np.testing.assert_allclose(run(side).outputs["output"], expected, atol=1e-5)

    twin = adopt(make_nnx())
    twin.model.lift.bias[...] = jnp.full(5, 3.0)
    np.testing.assert_array_equal(twin.read()["lift.bias"], np.full(5, 3.0))


def test_loaded_weights_are_in_the_twin():
    for make in MAKERS.values():
        side = adopt(make())
        values = {name: np.full(v.shape, 0.5, np.float32) for name, v in side.read().items()}
        side.load(values, "working")
        assert all((v == 0.5).all() for v in side.read().values())
        weights = leaves(side.model)
        assert all((v == 0.5).all() for _, v in weights if v.dtype == np.float32)


def test_double_and_working_weights_are_apart():
    side = adopt(make_pair())
    third = np.full(2, 1 / 3)
    side.load({"b": third}, "double")
    zero = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(run(side, zero).outputs["output"], np.tanh(third)[None])
    assert (run(side, zero, precision="working").outputs["output"] == 0).all()


def test_load_names_what_does_not_fit():
    side = adopt(make_pair())
    with pytest.raises(UsageError, match=r"'b' has shape \(2,\), got values of shape \(3,\)"):
        side.load({"b": np.ones(3)}, "working")
    with pytest.raises(UsageError, match=r"no parameter 'nothing' .* parameters are "):
        side.load({"nothing": np.ones(3)}, "working")


def test_unused_parameters_and_integer_inputs():
    def function(params, tokens, x):
        return params["table"][tokens] * x

    side = adopt((function, {"table": jnp.ones((5, 3)), "unused": jnp.ones(2)}))
    tokens = np.array([0, 1, 1, 4], np.int64)
    passed = run(side, tokens, X)
    found = passed.backward(ones(passed))
    assert list(found.inputs) == ["x1"]
    assert (found.parameters["unused"] == 0).all()
    np.testing.assert_allclose(found.parameters["table"][1], X[1].astype(float) + X[2])


def test_keyword_inputs():
    side = adopt((lambda p, x, *, shift: x * p["w"] + shift, {"w": jnp.ones(3)}))
    arguments = [Argument("x", X), Argument("shift", X * 2, keyword=True)]
    passed = side.forward(arguments, precision="double")
    np.testing.assert_allclose(passed.outputs["output"], 3 * X.astype(float))
    assert (passed.backward(ones(passed)).inputs["shift"] == 1).all()


def test_nested_outputs_have_names():
    def function(params, x):
        return {"logits": x * params["w"], "states": (x, [None, x > 0]), "loss": 3}

    passed = run(adopt((function, {"w": jnp.ones(3)})))
    assert list(passed.outputs) == ["logits", "states.0", "states.1.1"]
    assert passed.outputs["states.1.1"].dtype == bool
    assert passed.skipped == {"states.1.0": "is None", "loss": "is int, no array"}
    passed.backward({"logits": np.ones((4, 3))})
    with pytest.raises(ModelError, match="gradients=False, or taken back"):
        passed.backward({})


def test_batch_statistics_after_a_step():
    for make, kernel, mean, keep in (
        (make_nnx, "lift", "blocks.0", 0.99),
        (make_linen, "lift", "BatchNorm_0", 0.9),
    ):
        side = adopt(make())
        held = side.read()
        passed = run(side, training=True)
        x = X @ held[f"{kernel}.kernel"].astype(float) + held[f"{kernel}.bias"]
        found = passed.buffers()
        np.testing.assert_allclose(found[f"{mean}.mean"], (1 - keep) * x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found[f"{mean}.var"], keep + (1 - keep) * x.var(0), rtol=1e-6)
        # Put back: another pass in inference has the old ones.
        assert (run(side).buffers()[f"{mean}.mean"] == 0).all()


def test_dropout_left_on_differs_between_equal_calls():
    model = Nnx(nnx.Rngs(0))  # in training mode, as flax makes it
    side = adopt(model)
    first, second = run(side), run(side)
    assert np.abs(first.outputs["output"] - second.outputs["output"]).max() > 0.1
    assert int(model.blocks[1].rngs.count[...]) == 0


def test_an_equinox_module_without_layers_of_two_modes_is_the_same_in_training():
    side = adopt(Equinox(jax.random.key(0)))
    usual, trained = run(side), run(side, training=True)
    for name, value in usual.outputs.items():
        np.testing.assert_array_equal(trained.outputs[name], value)


def test_errors_say_what_to_do():
    class Dropped(eqx.Module):
        drop: eqx.nn.Dropout
        weight: jax.Array

        def __call__(self, x):
            return self.drop(x * self.weight)

    side = adopt(Dropped(eqx.nn.Dropout(0.5), jnp.ones(3)))
    side.role = "port"
    with pytest.raises(ModelError, match=r"port, forward: .*key.*equinox\.nn\.inference_mode"):
        run(side, precision="working")
    with pytest.raises(ModelError, match=r"Dropout of equinox takes .*'training' out of checks"):
        run(side, training=True)
    with pytest.raises(ModelError, match=r"returned no array .output is None."):
        run(adopt((lambda p, x: None, {"w": jnp.ones(3)})))
    with pytest.raises(ModelError, match="shadow: TypeError"):
        run(adopt(make_pair()), np.ones((2, 7), np.float32))
    with pytest.raises(FrameworkUnavailable, match="jax: device 'cuda:7' was asked for"):
        BACKEND.adopt(make_pair(), dtype="float32", device="cuda:7", mode="eager", own=False)
    with pytest.raises(UsageError, match="dtype 'int8' is not one of float32"):
        adopt(make_pair(), dtype="int8")
    with pytest.raises(UsageError, match=r"expected a flax or equinox module .* got ndarray"):
        adopt(np.ones(3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_working_dtypes(dtype):
    side = adopt(make_pair(), dtype=dtype)
    working, double = run(side, precision="working"), run(side)
    expected = {"bfloat16": np.float32, "float64": np.float64}[dtype]
    assert working.outputs["output"].dtype == expected
    error = np.abs(working.outputs["output"] - double.outputs["output"]).max()
    assert 1e-4 < error < 1e-2 if dtype == "bfloat16" else error < 1e-15


def test_stopwatch_runs():
    side = adopt(make_pair(), "compiled")
    watch = side.stopwatch([Argument("x", X)], {"output": np.ones((4, 2))})
    watch.forward()
    watch.forward_backward()
    watch.backward()
    watch.backward()
    assert side.stopwatch([Argument("x", X)], None).backward is None


def test_environment():
    facts = BACKEND.environment()
    assert facts["version"] == jax.__version__
    assert facts["x64"] is False
    assert {"jaxlib", "flax", "equinox", "devices", "device_kind", "platform"} <= facts.keys()
    assert "cpu" in BACKEND.device_names()
