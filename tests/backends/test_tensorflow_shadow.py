"""The float64 shadow: same function, float64 throughout, gradients of the framework's own."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.registry import owner
from pytest_fwcompare.backends.tensorflow import prepare_import
from pytest_fwcompare.errors import ModelError

prepare_import()
tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(7)


def module(function, **values):
    """A tf.Module whose variables are given and whose call is `function(self, *inputs)`."""

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            for name, value in values.items():
                setattr(self, name, tf.Variable(np.asarray(value, "float32")))

        def __call__(self, *inputs):
            return function(self, *inputs)

    return Model()


def in_double(function, **values):
    """The same module with float64 variables, to be run directly: what a shadow must give."""
    model = module(function, **values)
    for name, value in values.items():
        exact = np.asarray(value, "float32").astype("float64")
        setattr(model, name, tf.Variable(exact))
    return model


def adopt(model, dtype="float32"):
    return owner(model).adopt(model, dtype=dtype, device="cpu", mode="eager", own=False)


def run(side, precision, *arrays, training=False):
    arguments = [Argument(f"x{i}", a) for i, a in enumerate(arrays)]
    done = side.forward(arguments, precision=precision, training=training)
    cotangents = {
        name: np.cos(np.arange(v.size, dtype="float64")).reshape(v.shape).astype("float32")
        for name, v in done.outputs.items()
        if v.dtype.kind == "f"
    }
    return done, done.backward({k: v.astype("float64") for k, v in cotangents.items()})


def assert_same(function, *arrays, tolerance=1e-13, **values):
    """The shadow of the float32 model is the float64 model, forward and backward."""
    with (
        adopt(module(function, **values)) as side,
        adopt(in_double(function, **values), "float64") as direct,
    ):
        shadow, gradients = run(side, "double", *arrays)
        truth, expected = run(direct, "working", *arrays)
        assert side.leaks == []
        for name, value in truth.outputs.items():
            assert shadow.outputs[name].dtype == value.dtype
            np.testing.assert_allclose(shadow.outputs[name], value, tolerance, tolerance)
        for mine, right in (
            (gradients.inputs, expected.inputs),
            (gradients.parameters, expected.parameters),
        ):
            assert mine.keys() == right.keys()
            for name, value in right.items():
                if value is None:
                    assert mine[name] is None, name
                else:
                    np.testing.assert_allclose(mine[name], value, tolerance, tolerance)
        return shadow, gradients


X = RNG.standard_normal((3, 4)).astype("float32").astype("float64")
W = RNG.standard_normal((4, 4)) / 2


def test_dense_and_constants_that_float32_rounds():
    assert_same(lambda m, x: tf.nn.tanh(x @ m.w * 0.1 + 1e-5), X, w=W)


def loop(m, x):
    def step(i, y, seen):
        y = tf.tanh(y @ m.w)
        return i + 1, y, seen.write(i, y)

    seen = tf.TensorArray(x.dtype, 5)
    _, _, seen = tf.while_loop(lambda i, *_: i < 5, step, (0, x, seen))
    return seen.stack()


def test_while_loop_with_a_variable_and_a_tensor_array():
    assert_same(loop, X, w=W)


def test_conditional_on_a_tensor():
    def function(m, x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ m.w, lambda: x - m.w[:3])

    assert_same(function, X, w=W)
    assert_same(function, -X, w=W)


def test_nested_functions_are_inlined():
    @tf.function
    def inner(x, w):
        return tf.nn.relu(x @ w)

    @tf.function
    def outer(x, w):
        return inner(inner(x, w), w) + loop(module(None, w=W), x)[-1] * 0

    shadow, _ = assert_same(lambda m, x: inner(inner(x, m.w), m.w), X, w=W)
    assert shadow.outputs["output"].shape == (3, 4)


def test_a_function_whose_results_wait_for_the_gradients_of_its_loop():
    @tf.function
    def inner(x, w):
        for _ in tf.range(tf.shape(x)[0]):
            x = tf.tanh(x @ w)
        return x

    assert_same(lambda m, x: inner(x, m.w), X, w=W)


def test_custom_gradient_that_closes_over_tensors():
    @tf.custom_gradient
    def halved(x):
        inside = tf.exp(x)
        return inside, lambda dy: dy * inside * 0.5

    shadow, gradients = assert_same(lambda m, x: halved(x @ m.w), X, w=W)
    plain, full = assert_same(lambda m, x: tf.exp(x @ m.w), X, w=W)
    np.testing.assert_array_equal(shadow.outputs["output"], plain.outputs["output"])
    np.testing.assert_allclose(gradients.inputs["x0"] * 2, full.inputs["x0"])


def test_stopped_gradient():
    _, gradients = assert_same(lambda m, x: x * tf.stop_gradient(x @ m.w), X, w=W)
    assert gradients.parameters == {"w": None}


def test_lookup_gradient_is_dense():
    tokens = np.array([[0, 2, 2], [3, 1, 2]])
    _, gradients = assert_same(lambda m, i: tf.gather(m.table, i) * 2.0, tokens, table=W)
    assert gradients.inputs == {}
    assert gradients.parameters["table"].shape == (4, 4)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16", "float32"])
def test_casts_to_narrower_dtypes_are_lifted(narrow):
    def detour(m, x):
        return tf.cast(tf.cast(x @ m.w, narrow) * 3, x.dtype)

    with adopt(module(detour, w=W)) as side:
        shadow, _ = run(side, "double", X)
        exact = X @ np.asarray(W, "float32").astype("float64") * 3
        np.testing.assert_allclose(shadow.outputs["output"], exact, 1e-14)
        assert side.leaks == []


def test_an_operation_fixed_to_float32_is_named_as_a_leak_or_refused():
    def quantised(m, x):
        return tf.quantization.fake_quant_with_min_max_args(x @ m.w, -6.0, 6.0)

    with adopt(module(quantised, w=W)) as side, pytest.raises(ModelError) as caught:
        run(side, "double", X)
    assert caught.value.stage == "shadow"
    assert "FakeQuantWithMinMaxArgs" in str(caught.value)


def test_an_operation_without_a_float64_kernel_is_named():
    images = RNG.standard_normal((1, 2, 2, 8))
    with adopt(module(lambda m, x: tf.nn.lrn(x) * m.w, w=1.0)) as side:
        with pytest.raises(ModelError, match="LRN") as caught:
            run(side, "double", images)
        assert caught.value.stage == "shadow"


def test_a_constant_that_cannot_be_restored_is_listed():
    table = RNG.standard_normal((4, 4)).astype("float32")
    with adopt(module(lambda m, x: x @ tf.constant(table) * m.w, w=1.0)) as side:
        run(side, "double", X)
        assert len(side.rounded_constants) == 1
    with adopt(module(lambda m, x: x * 1e-5 * m.w, w=1.0)) as side:
        run(side, "double", X)
        assert side.rounded_constants == []


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", ["NHWC"])
def test_fused_batch_norm_and_its_gradient(training, layout):
    images = RNG.standard_normal((3, 4, 5, 2))

    def fused(m, x):
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            x,
            m.scale,
            m.shift,
            None if training else m.mean,
            None if training else m.variance,
            epsilon=0.001,
            is_training=training,
        )
        return y

    def plain(m, x):
        mean, variance = tf.nn.moments(x, [0, 1, 2]) if training else (m.mean, m.variance)
        return tf.nn.batch_normalization(x, mean, variance, m.shift, m.scale, 0.001)

    values = {"scale": [0.5, 2.0], "shift": [1.0, -1.0], "mean": [0.1, 0.2], "variance": [2.0, 3]}
    with adopt(module(fused, **values)) as side, adopt(in_double(plain, **values), "float64") as d:
        shadow, gradients = run(side, "double", images)
        truth, expected = run(d, "working", images)
        np.testing.assert_allclose(shadow.outputs["output"], truth.outputs["output"], 1e-12, 1e-13)
        np.testing.assert_allclose(gradients.inputs["x0"], expected.inputs["x0"], 1e-10, 1e-12)
        for name in ("scale", "shift"):
            np.testing.assert_allclose(
                gradients.parameters[name], expected.parameters[name], 1e-11, 1e-12
            )
        assert side.leaks == []


@pytest.mark.parametrize("size", [(7, 5), (2, 9)])
@pytest.mark.parametrize("corners", [False, True])
def test_bilinear_resizing_and_its_gradient(size, corners):
    images = RNG.standard_normal((2, 4, 3, 2))

    def resize(m, x):
        return m.w * tf.compat.v1.image.resize_bilinear(
            x, size, align_corners=corners, half_pixel_centers=not corners
        )

    with adopt(module(resize, w=2.0)) as side:
        shadow, gradients = run(side, "double", images)
        working, rounded = run(side, "working", images)
        np.testing.assert_allclose(shadow.outputs["output"], working.outputs["output"], 1e-4, 1e-5)
        np.testing.assert_allclose(gradients.inputs["x0"], rounded.inputs["x0"], 1e-4, 1e-5)
        # An even function of nothing: doubling the input doubles a linear map exactly.
        twice, _ = run(side, "double", 2 * images)
        np.testing.assert_array_equal(twice.outputs["output"], 2 * shadow.outputs["output"])
        assert side.leaks == []


@pytest.mark.parametrize("slope", [0.3, 0.01])
def test_the_slope_of_leaky_relu_is_the_decimal_that_was_written(slope):
    side = adopt(module(lambda m, x: tf.nn.leaky_relu(x * m.w, slope), w=np.float32(1)))
    done, gradients = run(side, "double", np.array([-2.0, 0.0, 3.0], np.float32))
    np.testing.assert_array_equal(done.outputs["output"], [-2 * slope, 0.0, 3.0])
    cotangents = np.cos(np.arange(3.0)).astype("float32").astype("float64")
    # The kernel's derivative at zero is the slope.
    found = gradients.inputs["x0"]
    np.testing.assert_allclose(found, cotangents * [slope, slope, 1.0], rtol=1e-15)


def test_random_draws_are_those_of_the_working_dtype():
    def noisy(m, x):
        return x + m.w * tf.random.stateless_uniform(tf.shape(x), [3, 4], dtype=x.dtype)

    with adopt(module(noisy, w=1.0)) as side:
        shadow, _ = run(side, "double", X)
        working, _ = run(side, "working", X)
        np.testing.assert_allclose(shadow.outputs["output"], working.outputs["output"], 1e-6)
        assert side.leaks == []


def test_weights_of_both_precisions_are_apart_and_the_model_gets_neither_back():
    model = module(lambda m, x: x * m.w, w=3.0)
    with adopt(model) as side:
        run(side, "double", X)
        side.load({"w": np.float64(0.1)}, "double")
        side.load({"w": np.float64(7.0)}, "working")
        shadow, _ = run(side, "double", X)
        working, _ = run(side, "working", X)
        np.testing.assert_array_equal(shadow.outputs["output"], X * 0.1)
        np.testing.assert_allclose(working.outputs["output"], X * 7, 1e-6)
    assert model.w.numpy() == 3.0


def test_float64_comparison_of_a_float32_model_is_lifted():
    model = module(lambda m, x: x @ m.w * 0.1, w=W)
    with adopt(model, "float64") as side:
        working, _ = run(side, "working", X)
        exact = X @ np.asarray(W, "float32").astype("float64") * 0.1
        np.testing.assert_allclose(working.outputs["output"], exact, 1e-14)


def test_a_model_of_another_dtype_is_refused():
    model = module(lambda m, x: x * m.w, w=1.0)
    with adopt(model, "float16") as side, pytest.raises(ModelError) as caught:
        side.parameters()
    assert str(caught.value) == (
        "side, build: expected parameters in the working dtype float16, got float32; make the "
        "model in float16, or compare with dtype='float32'"
    )


def test_assignments_act_on_the_shadow_alone():
    def counting(m, x):
        m.steps.assign_add(1.0)
        return x * m.steps * m.w

    model = module(counting, w=2.0, steps=0.0)
    model.steps = tf.Variable(0.0, trainable=False)
    with adopt(model) as side:
        for _ in range(2):
            done, _ = run(side, "double", X, training=True)
            np.testing.assert_array_equal(done.outputs["output"], 2 * X)
            assert done.buffers() == {"steps": 1.0}
        assert model.steps.numpy() == 0.0
        done, _ = run(side, "working", X, training=True)
        assert done.buffers() == {"steps": 1.0}
        assert model.steps.numpy() == 0.0


def recorded(function, *arrays, **values):
    with adopt(module(function, **values)) as side:
        arguments = [Argument(f"x{i}", a) for i, a in enumerate(arrays)]
        done = side.forward(arguments, precision="double", record=True)
        done.backward({"output": np.ones(done.outputs["output"].shape)})
        return done.recorded(), done


def test_record_has_values_edges_parameters_and_gradients():
    records, done = recorded(lambda m, x: tf.nn.relu(x @ m.w + 0.5), X, w=W)
    assert [r.operation for r in records] == ["input", "MatMul", "AddV2", "Relu"]
    assert [r.inputs for r in records] == [(), (0,), (1,), (2,)]
    assert records[1].parameters == ("w",)
    assert records[2].attributes == {"y": 0.5}
    assert records[1].arguments[0] is records[0].value
    np.testing.assert_array_equal(records[3].value, done.outputs["output"])
    np.testing.assert_array_equal(records[2].gradient, done.outputs["output"] > 0)
    assert [r.place for r in records] == [":x0", "matmul", "add", "Relu"]


def test_record_looks_into_functions():
    @tf.function
    def inner(x):
        return tf.nn.relu(tf.nn.softplus(x))

    records, _ = recorded(lambda m, x: inner(x * m.w), X, w=2.0)
    assert [r.operation for r in records][:4] == ["input", "Mul", "Softplus", "Relu"]
    assert records[3].inputs == (2,)


def test_gradients_are_refused_when_the_pass_was_made_without():
    with adopt(module(lambda m, x: x * m.w, w=1.0)) as side:
        done = side.forward([Argument("x", X)], precision="double", gradients=False)
        with pytest.raises(ModelError, match="side, backward: the pass was made without gradient"):
            done.backward({})


def test_a_spectrum_is_complex_in_float64():
    def power(m, x):
        shifted = tf.signal.rfft(x * m.w[0]) * tf.constant(0.5 + 0.25j, tf.complex64)
        return tf.math.log(tf.abs(shifted) ** 2 + 1e-3)

    side = adopt(module(power, w=W))
    with side:
        shadow, gradients = run(side, "double", X)
        assert side.leaks == []
    window = np.asarray(W, "float32")[0].astype("float64")
    spectrum = np.fft.rfft(X * window) * (0.5 + 0.25j)
    (value,) = shadow.outputs.values()
    np.testing.assert_allclose(value, np.log(np.abs(spectrum) ** 2 + 1e-3), 1e-12)
    (gradient,) = gradients.inputs.values()
    cotangent = np.cos(np.arange(value.size, dtype="float64")).reshape(value.shape)
    cotangent = cotangent.astype("float32").astype("float64")
    moved = X.copy()
    moved[1, 2] += 1e-6
    spectrum = np.fft.rfft(moved * window) * (0.5 + 0.25j)
    change = (np.log(np.abs(spectrum) ** 2 + 1e-3) - value) * cotangent
    np.testing.assert_allclose(gradient[1, 2], change.sum() / 1e-6, 1e-4)
