"""Records of a JAX pass: values, places, data flow and gradients, nothing left behind."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
linen = pytest.importorskip("flax.linen")
eqx = pytest.importorskip("equinox")

from jax import numpy as jnp  # noqa: E402

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.jax import JaxBackend  # noqa: E402
from pytest_fwcompare.errors import ModelError  # noqa: E402
from pytest_fwcompare.networks import Sequential  # noqa: E402
from pytest_fwcompare.networks import layers as nn  # noqa: E402

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)])

    def __call__(self, x):
        return self.blocks[1](nnx.relu(self.blocks[0](x))) * 2


class Equinox(eqx.Module):
    blocks: list

    def __init__(self, key):
        self.blocks = [eqx.nn.Linear(3, 5, key=key), eqx.nn.Linear(5, 2, key=key)]

    def __call__(self, x):
        x = jax.nn.relu(jax.vmap(self.blocks[0])(x))
        return jax.vmap(self.blocks[1])(x) * 2


class Linen(linen.Module):
    def setup(self):
        self.blocks = [linen.Dense(5), linen.Dense(2)]

    def __call__(self, x):
        return self.blocks[1](linen.relu(self.blocks[0](x))) * 2


def make_linen():
    module = Linen()
    return module, module.init(jax.random.key(0), X)


def make_network():
    layers = [nn.Dense(5, name="first"), nn.Activation("relu"), nn.Dense(2, name="second")]
    return JaxBackend().build(Sequential(layers, (3,))).model


MAKERS = {
    "nnx": (lambda: Nnx(nnx.Rngs(0)), ("blocks.0", "blocks.1"), "Linear"),
    "equinox": (lambda: Equinox(jax.random.key(0)), ("blocks.0", "blocks.1"), "Linear"),
    "linen": (make_linen, ("blocks_0", "blocks_1"), "Dense"),
    "network": (make_network, ("first", "second"), "Dense"),
}


def record(model, x=X, backward=True):
    side = JaxBackend().adopt(model, dtype="float32", device="cpu", mode="eager", own=False)
    passed = side.forward([Argument("x", x)], precision="double", record=True)
    found = None
    if backward:
        cotangents = {name: np.ones(value.shape) for name, value in passed.outputs.items()}
        found = passed.backward(cotangents)
    return passed, found, side


@pytest.mark.parametrize("kind", MAKERS)
def test_modules_are_named(kind):
    make, paths, layer = MAKERS[kind]
    passed, _, _ = record(make())
    records = passed.recorded()
    for path in paths:
        operations = [r.operation for r in records if r.path == path and not r.is_module]
        assert operations in (["dot_general", "add"], ["dot_general", "transpose", "add"])
        (whole,) = (r for r in records if r.path == path and r.is_module)
        assert whole.operation == layer
        (source,) = whole.inputs
        assert records[source].operation == "add"
        assert whole.value is records[source].value
        names = [name for r in records if r.path == path for name in r.parameters]
        assert len(names) == 2
        assert all(name.startswith(path + ".") for name in names)
    assert "relu" in [r.operation for r in records]


@pytest.mark.parametrize("kind", MAKERS)
def test_recording_changes_no_value(kind):
    passed, found, side = record(MAKERS[kind][0]())
    plain = side.forward([Argument("x", X)], precision="double")
    gradients = plain.backward({"output": np.ones(plain.outputs["output"].shape)})
    np.testing.assert_allclose(passed.outputs["output"], plain.outputs["output"], rtol=1e-14)
    for name, gradient in gradients.parameters.items():
        np.testing.assert_allclose(found.parameters[name], gradient, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found.inputs["x"], gradients.inputs["x"], rtol=1e-13)


@pytest.mark.parametrize("kind", MAKERS)
def test_values_can_be_recomputed_from_their_arguments(kind):
    records = record(MAKERS[kind][0]())[0].recorded()
    recomputed = 0
    for r in records:
        function = {"add": np.add, "mul": np.multiply, "relu": lambda x: np.maximum(x, 0)}.get(
            r.operation
        )
        if function is not None and not r.is_module:
            np.testing.assert_allclose(function(*r.arguments), r.value, rtol=1e-14)
            recomputed += 1
        for source in r.inputs:
            assert source < r.index
            assert any(a is records[source].value for a in r.arguments) or r.is_module
    assert recomputed >= 3


def test_gradients_of_records():
    passed, found, _ = record(Nnx(nnx.Rngs(0)))
    records = passed.recorded()
    (start,) = (r for r in records if r.operation == "input")
    assert start.attributes == {"name": "x"}
    np.testing.assert_array_equal(start.gradient, found.inputs["x"])
    for r in records:
        if r.operation == "add":
            (bias,) = r.parameters
            np.testing.assert_allclose(r.gradient.sum(0), found.parameters[bias], rtol=1e-13)
    product = next(r for r in records if r.operation == "mul")
    assert (product.gradient == 1).all()
    assert [r.gradient for r in record(Nnx(nnx.Rngs(0)), backward=False)[0].recorded()] == [
        None
    ] * len(records)


def test_places_are_unique_and_stable():
    first = [r.place for r in record(Nnx(nnx.Rngs(0)))[0].recorded()]
    second = [r.place for r in record(Nnx(nnx.Rngs(1)), X[:2])[0].recorded()]
    assert first == second
    assert len(set(first)) == len(first)


def test_classes_are_put_back():
    before = nnx.Linear.__dict__["__call__"], eqx.nn.Linear.__dict__["__call__"]
    record(Nnx(nnx.Rngs(0)))
    record(Equinox(jax.random.key(0)))
    for model in (Nnx(nnx.Rngs(0)), Equinox(jax.random.key(0))):
        with pytest.raises(ModelError, match="record: "):
            record(model, np.ones((2, 7), np.float32))
    after = nnx.Linear.__dict__["__call__"], eqx.nn.Linear.__dict__["__call__"]
    assert all(old is new for old, new in zip(before, after, strict=True))


def test_parameters_are_followed_through_moves_and_loops_give_their_outputs():
    def function(params, x):
        kernel = params["w"].T.reshape(3, 3).astype(jnp.float32)
        x = x @ kernel + jnp.broadcast_to(params["b"], x.shape)
        _, states = jax.lax.scan(lambda c, row: (c + row, c * row), jnp.zeros(3), x)
        return jnp.where(states > 0, states, 0.5)

    params = {"w": jnp.eye(3), "b": jnp.ones(3)}
    records = record((function, params))[0].recorded()
    by_name = {r.operation: r for r in reversed(records) if r.operation != "scan"}
    by_name["scan"] = next(r for r in records if r.operation == "scan" and r.value.ndim == 2)
    of_loop = [r for r in records if r.operation in ("scan", "select", "mul")]
    assert [r.operation for r in records if r not in of_loop and r.index < 3] == [
        "input", "dot_general", "add",
    ]  # fmt: skip
    assert [r.operation for r in records[-3:]] == ["scan", "scan", "select_n"]
    assert [r.operation for r in of_loop[:-2]] == ["select", "mul"] * 4
    assert by_name["dot_general"].parameters == ("w",)
    assert by_name["add"].parameters == ("b",)
    assert by_name["add"].inputs == (by_name["dot_general"].index,)
    assert by_name["scan"].attributes["length"] == 4
    assert by_name["select_n"].inputs == (by_name["scan"].index,)


def test_narrow_code_is_recorded_wide():
    def function(params, x):
        return (x.astype(jnp.float16) * params["w"].astype(jnp.float16)).astype(jnp.float32)

    records = record((function, {"w": jnp.full(3, 0.3)}))[0].recorded()
    assert [r.operation for r in records] == ["input", "mul"]
    expected = X.astype(float) * float(np.float32(0.3))
    np.testing.assert_array_equal(records[1].value, expected)


def test_code_that_insists_on_float32_is_recorded_too():
    rnn = nnx.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))  # its state is made in float32
    passed, found, side = record(rnn, X[None])
    plain = side.forward([Argument("x", X[None])], precision="double")
    np.testing.assert_allclose(passed.outputs["output"], plain.outputs["output"], rtol=1e-14)
    working = side.forward([Argument("x", X[None])], precision="working")
    error = np.abs(working.outputs["output"] - plain.outputs["output"]).max()
    assert 0 < error < 1e-6
    assert "scan" in [r.operation for r in passed.recorded()]
    assert found.parameters["cell.dense_h.kernel"].dtype == np.float64


def test_only_double_passes_are_recorded():
    side = JaxBackend().adopt(
        make_network(), dtype="float32", device="cpu", mode="eager", own=True
    )
    with pytest.raises(ModelError, match="only a pass in double precision can be recorded"):
        side.forward([Argument("x", X)], precision="working", record=True)


def looped(length, reverse=False):
    """A loop over the rows of x whose states are 2 c + row."""

    def function(params, x):
        rows = jnp.tile(x, (length // len(x), 1))
        last, states = jax.lax.scan(
            lambda c, row: (2 * c + row, c), params["w"], rows, reverse=reverse
        )
        return states, last

    return function, {"w": jnp.ones(3)}


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_are_recorded_step_by_step(reverse):
    records = record(looped(4, reverse))[0].recorded()
    rows = [r for r in records if r.operation == "select"]
    order = [3, 2, 1, 0] if reverse else [0, 1, 2, 3]
    assert [r.attributes["start"] for r in rows] == order
    state, made = np.ones(3), []
    for row, added in zip(rows, [r for r in records if r.operation == "add"], strict=True):
        np.testing.assert_array_equal(row.value, X[row.attributes["start"]])
        made.append(state)
        state = 2 * state + row.value
        np.testing.assert_array_equal(added.value, state)
        assert row.index in added.inputs
        assert added.gradient is not None
    last, states = [r for r in records if r.operation == "scan"]
    np.testing.assert_array_equal(last.value, state)
    np.testing.assert_array_equal(states.value, made[::-1] if reverse else made)
    steps = states.arguments[states.attributes["given"] :]
    np.testing.assert_array_equal(np.stack(steps), states.value)


def test_long_loops_are_recorded_as_a_whole():
    records = record(looped(4000))[0].recorded()
    assert [r.operation for r in records if r.operation in ("scan", "select")] == ["scan"] * 2
    assert len(records) < 10
