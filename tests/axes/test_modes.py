"""Modes against a side's own eager mode, and modes that a model does not support."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}


def torch_model(factor=1.0, device=None):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x):
            y = torch.nn.functional.gelu(self.linear(x))
            return y * factor if torch.compiler.is_compiling() else y

    return Model()


def tensorflow_model(factor=1.0):
    tf = pytest.importorskip("tensorflow")

    class Model(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(np.ones((4, 3), "float32"))

        def __call__(self, x):
            y = tf.tanh(x @ self.kernel)
            return y * (1.0 if tf.executing_eagerly() else factor)

    return Model()


def keras_model(factor=1.0):
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")

    class Layer(keras.layers.Layer):
        def call(self, x):
            return x * (1.0 if tf.executing_eagerly() else factor)

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Layer()])


def jax_model(factor=1.0):
    jax = pytest.importorskip("jax")

    def function(params, x):
        y = jax.numpy.tanh(x @ params)
        # Eager JAX gives values, or traces of a derivative; a jit gives neither.
        traced = "DynamicJaxpr" in type(jax.numpy.sum(y).aval).__name__ + type(y).__name__
        return y * (factor if traced else 1.0)

    return function, np.ones((4, 3), "float32")


@pytest.mark.parametrize("make", [torch_model, tensorflow_model, keras_model])
@pytest.mark.parametrize("role", ["reference", "port"])
def test_a_mode_that_is_another_function_is_caught_by_its_own_eager_mode(make, role):
    sides = {"reference": make(), "port": make()} | {role: make(1.001)}
    weights = {"kernel": "kernel"} if make is tensorflow_model else "auto"
    found = fwc.compare(
        **sides, inputs=INPUTS, weights=weights, mode="graph", examples=3, explain=False
    )
    assert found.verdict == "semantic"
    framework = getattr(found, role)
    assert found.message.startswith(
        f"the {role} in mode 'graph' is not what {framework} computes in its own eager mode: "
    )
    assert "rounding to float32 explains" in found.message
    assert "differs by 0.001 of its largest value" in found.message
    assert "Code that asks whether it is being traced" in found.message
    assert found.unlike_itself == role
    headline = found.summary().splitlines()[0]
    assert headline == (
        f"semantic: {framework} in mode 'graph' does not compute what it computes eagerly: the "
        f"{role} (cpu, float32, graph)"
    )
    assert " worst " not in found.summary()


def test_a_backward_pass_that_a_mode_gets_wrong_is_told_from_a_forward_pass():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x):
            y = self.linear(x)
            # The same values, with half of the derivative.
            return y * 0.5 + y.detach() * 0.5 if torch.compiler.is_compiling() else y

    found = fwc.compare(
        torch.nn.Sequential(torch.nn.Linear(4, 3)),
        Model(),
        inputs=INPUTS,
        mode="graph",
        examples=3,
    )
    assert (found.verdict, found.unlike_itself) == ("semantic", "port")
    assert found.summary().startswith("semantic: torch in mode 'graph' does not compute what")
    assert "Its outputs agree, so it is the backward pass that mode 'graph' makes" in found.message
    assert "The other side is not accused" in found.message


@pytest.mark.parametrize("make", [torch_model, tensorflow_model, keras_model, jax_model])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_mode_passes(make, dtype):
    if dtype == "bfloat16" and make in (tensorflow_model, keras_model):
        pytest.skip("TensorFlow models are taken in the dtype they have")
    found = fwc.compare(make(), make(), inputs=INPUTS, mode="graph", dtype=dtype, examples=3)
    assert found.verdict == "equivalent", found.summary()


def test_a_mode_that_jax_cannot_trace_is_no_fault_of_the_port():
    pytest.importorskip("jax")

    def function(params, x):
        y = x @ params
        return y if float(y.sum()) > 1e30 else 2 * y  # a condition on a value

    params = np.ones((4, 3), "float32")
    found = fwc.compare(
        lambda: (function, params),
        lambda: (function, params),
        inputs=INPUTS,
        mode="graph",
        checks=("forward",),
        weights="given",
        examples=3,
    )
    # Its shadow is traced too, so eager mode cannot be judged either: this stays an error.
    assert (found.verdict, found.unsupported) == ("error", "")


def broken(*_):
    raise NotImplementedError("no kernel for this graph")


def test_a_mode_that_a_model_does_not_support_is_told_with_the_frameworks_reason(monkeypatch):
    torch = pytest.importorskip("torch")
    from pytest_fwcompare.backends.torch import modes

    monkeypatch.setitem(modes.BACKENDS, "graph", broken)
    found = fwc.compare(torch_model(), torch_model(), inputs=INPUTS, mode="graph", examples=3)
    torch._dynamo.reset()
    assert found.verdict == "error"
    assert found.unsupported == "mode"
    assert found.message.startswith(
        "mode 'graph' is not supported here; the same comparison runs eagerly. reference, forward"
    )
    assert "no kernel for this graph" in found.message


def test_a_dtype_that_a_model_does_not_support_is_told_so():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x):
            if x.dtype is torch.float16:
                raise RuntimeError("\"fancy_kernel\" not implemented for 'Half'")
            return self.linear(x)

    found = fwc.compare(torch.nn.Linear(4, 3), Model(), inputs=INPUTS, dtype="float16", examples=3)
    assert found.unsupported == "dtype"
    assert found.message.startswith(
        "dtype 'float16' is not supported here; the same comparison runs in float32. port, forw"
    )
    assert "\"fancy_kernel\" not implemented for 'Half'" in found.message


def test_a_model_that_fails_eagerly_too_is_an_error():
    torch = pytest.importorskip("torch")
    found = fwc.compare(
        torch.nn.Linear(4, 3), torch.nn.Linear(5, 3), inputs=INPUTS, mode="graph", weights="given"
    )
    assert (found.verdict, found.unsupported) == ("error", "")


def test_the_fixture_skips_what_is_not_supported(pytester):
    pytest.importorskip("torch")
    pytester.makepyfile(
        """
        import pytest, torch
        from pytest_fwcompare import TensorSpec
        from pytest_fwcompare.backends.torch import modes

        def broken(*_):
            raise NotImplementedError("no kernel for this graph")

        @pytest.fixture(autouse=True)
        def no_graphs(monkeypatch):
            monkeypatch.setitem(modes.BACKENDS, "graph", broken)

        def test_it(fwcompare_port):
            fwcompare_port(torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), examples=2,
                           inputs={"x": TensorSpec(("batch", 4))}, timings=False)
        """
    )
    result = pytester.runpytest("--fwcompare", "--fwcompare-modes=eager,graph", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*mode 'graph' is not supported here*no kernel for this graph*"])


def test_a_missing_compiler_skips_even_what_was_asked_for(pytester, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("shutil.which", lambda *_: None)
    pytester.makepyfile(
        """
        from pytest_fwcompare import networks as fn

        def test_it(fwcompare_network):
            fwcompare_network(fn.Sequential([fn.Dense(2)], input_shape=(3,)))
        """
    )
    result = pytester.runpytest(
        "--fwcompare", "--fwcompare-modes=compiled", "--fwcompare-frameworks=torch", "-rs"
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*mode 'compiled': torch.compile needs a C++ compiler*"])


def test_a_numpy_port_has_one_mode_and_is_compared_in_any():
    torch = pytest.importorskip("torch")
    found = fwc.compare(
        torch.nn.Tanh(), np.tanh, inputs=INPUTS, mode="graph", checks=("forward",), examples=3
    )
    assert (found.verdict, found.mode) == ("equivalent", "graph")


def test_a_mode_may_choose_another_subgradient_at_a_kink():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(4))

        def forward(self, x):
            y = x * self.scale
            # The same values; at zero the derivative is 1 in one and 0 in the other.
            return y.clamp(min=0) if torch.compiler.is_compiling() else torch.relu(y)

    grid = {"x": fwc.TensorSpec(("batch", 4), kind="grid")}
    found = fwc.compare(Model(), Model(), inputs=grid, mode="graph", examples=4)
    assert found.verdict in ("equivalent", "subgradient"), found.summary()


def test_the_trace_of_torch_is_no_part_of_a_failure(caplog):
    """It is for a file of its own; pytest would print hundreds of empty lines of it."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(4, 3)
    inputs = {"x": fwc.TensorSpec((2, 4))}
    found = fwc.compare(model, model, inputs=inputs, mode="graph", examples=1)
    assert found.verdict == "equivalent", found.summary()
    assert [r for r in caplog.records if r.name == "torch.__trace"] == []
