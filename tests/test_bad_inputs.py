"""Mistakes of a user of `compare` and the fixtures: each gives one clear error.

The tables beside this one: descriptions of networks in `networks/test_refused.py`, options and
markers in `plugin/test_mistakes.py`, arguments of `compare` in `test_comparison.py`, weights in
`weights/test_explicit.py`, specs of values in `inputs/test_values.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.registry import require
from pytest_fwcompare.errors import FrameworkUnavailable, FwcompareError, MappingError
from pytest_fwcompare.sides import InFramework

X = {"x": fwc.TensorSpec(("batch", 4))}
NETWORK = fn.Sequential([fn.Dense(3), fn.Activation("tanh")], input_shape=(4,), name="net")
TOKENS = fn.Sequential([fn.Embedding(7, 3)], input_shape=("time",), input_dtype="int64")
RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 3))


def double(x: Any) -> Any:
    return 2 * x


def nothing() -> None:
    """A factory whose author forgot to return the model."""


class Opaque:
    """Nothing that anybody can run."""

    def __init__(self, size: int) -> None:
        self.size = size


class Untakeable:
    """A tensor that NumPy cannot take, such as one that still needs its gradient."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("call detach() first")


def compared(reference: Any = NETWORK, port: Any = NETWORK, **keywords: Any) -> fwc.Comparison:
    keywords.setdefault("inputs", X)
    keywords.setdefault("examples", 4)
    return fwc.compare(reference, port, **keywords)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shape as a text": (
        lambda: fwc.TensorSpec("batch, 8"),  # type: ignore[arg-type]
        "TensorSpec: shape is a tuple of sizes and names of free sizes, such as (\"batch\", 8), "
        "got 'batch, 8'",
    ),
    "shape as a number": (
        lambda: fwc.TensorSpec(8),  # type: ignore[arg-type]
        'TensorSpec: shape is a tuple of sizes and names of free sizes, such as ("batch", 8), '
        "got 8",
    ),
    "inputs as a list": (
        lambda: compared(inputs=[X["x"]]),
        "inputs: expected a dict of at least one input, {name: TensorSpec, strategy or array}, "
        "got [TensorSpec(('batch', 4))]",
    ),
    "inputs as a spec": (
        lambda: compared(inputs=X["x"]),
        "inputs: expected a dict of at least one input, {name: TensorSpec, strategy or array}, "
        "got TensorSpec(('batch', 4))",
    ),
    "a tuple of sizes for an input": (
        lambda: compared(inputs={"x": (2, 4)}),
        "inputs['x']: (2, 4) is a tuple; a shape is written TensorSpec((2, 4)), values are an "
        "array: numpy.array(...)",
    ),
    "an unknown dtype of an input": (
        lambda: fwc.TensorSpec((2, 4), dtype="fp32"),
        "TensorSpec: unknown dtype 'fp32'; the dtypes are float32, float64, float16, bfloat16, "
        "int64, int32, int16, int8, uint64, uint32, uint16, uint8, bool",
    ),
    "a framework by another name": (
        lambda: require("tf"),
        "no framework 'tf'; did you mean 'tensorflow'? The frameworks are torch, tensorflow, "
        "keras, jax, numpy",
    ),
    "a shape for an input": (
        lambda: compared(inputs={"x": "batch"}),
        "inputs['x']: expected a TensorSpec, a Hypothesis strategy or an array, got builtins.str",
    ),
    "a tensor that NumPy cannot take": (
        lambda: compared(inputs={"x": Untakeable()}),
        f"inputs['x']: expected an array, got {Untakeable.__module__}.Untakeable, which NumPy "
        "cannot take: call detach() first",
    ),
    "words for an input": (
        lambda: compared(inputs={"x": np.array(["a", "b"])}),
        "inputs['x']: expected numbers or booleans, got dtype <U1",
    ),
    "a strategy of lists": (
        lambda: compared(inputs={"x": st.lists(st.floats(0, 1), min_size=4, max_size=4)}),
        "inputs['x']: the strategy must draw NumPy arrays, it drew list",
    ),
    "an unknown special value": (
        lambda: compared(inputs={"x": fwc.strategies.floats(2, 4, special=("nil",))}),
        "special: unknown value 'nil'; there are nan, inf, -inf, subnormal, negative zero",
    ),
    "a class that needs arguments": (
        lambda: compared(port=Opaque),
        "port: expected a model, got the class Opaque, which cannot be made without arguments; "
        "pass an instance, or a factory: lambda: Opaque(...)",
    ),
    "an object that is no model": (
        lambda: compared(reference=Opaque(1)),
        f"reference: expected a model (torch.nn.Module, keras.Model, tf.Module, flax or equinox "
        f"module, (function, params), NumPy callable), a factory that returns one, or a Network; "
        f"got {Opaque.__module__}.Opaque.",
    ),
    "no model at all": (
        lambda: compared(port=None),
        "port: expected a model (torch.nn.Module, keras.Model, tf.Module, flax or equinox module, "
        "(function, params), NumPy callable), a factory that returns one, or a Network; got "
        "builtins.NoneType.",
    ),
    "a path of nothing": (
        lambda: compared(port=Path("no") / "such.keras"),
        f"port: expected a model, got the path {str(Path('no') / 'such.keras')!r}, which is no "
        "folder of a SavedModel; load other files with their own framework and pass the model",
    ),
    "a factory that returns nothing": (
        lambda: compared(port=nothing),
        "port: the factory nothing returned None; expected a model. Is a return missing?",
    ),
    "an unknown check": (
        lambda: compared(checks=("backwards",)),
        "checks: expected some of forward, backward, training, as a tuple; got ('backwards',)",
    ),
    "weights of another kind": (
        lambda: compared(weights=["kernel"]),
        'weights: expected "auto", "given", a dict {port name: reference name} or a function '
        "copy(reference_model, port_model), got ['kernel']",
    ),
    "an unknown framework": (
        lambda: require("theano"),
        "no framework 'theano'; the frameworks are torch, tensorflow, keras, jax, numpy",
    ),
    "a mode that the framework lacks": (
        lambda: compared(InFramework(NETWORK, "numpy"), InFramework(NETWORK, "numpy"), mode="x"),
        "mode: unknown 'x'; the modes are eager, graph, compiled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_refused_with_one_clear_error(mistake: str) -> None:
    make, message = REFUSED[mistake]
    with pytest.raises(fwc.UsageError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def shape_drawn(*shape: int) -> Any:
    return st.just(np.ones(shape, np.float32))


FAILED: dict[str, tuple[Callable[[], fwc.Comparison], str]] = {
    "a strategy that gives the wrong shape": (
        lambda: compared(inputs={"x": shape_drawn(2, 5)}),
        "reference, forward: network 'net': input 'x' has shape (batch, 4), got (2, 5)",
    ),
    "a strategy that gives too few axes": (
        lambda: compared(inputs={"x": shape_drawn(4)}),
        "reference, forward: network 'net': input 'x' has 2 axes (batch, 4), got shape (4,)",
    ),
    "an array of the wrong shape": (
        lambda: compared(inputs={"x": np.ones((2, 5), np.float32)}),
        "reference, forward: network 'net': input 'x' has shape (batch, 4), got (2, 5)",
    ),
    "a spec of the wrong shape": (
        lambda: compared(inputs={"x": fwc.TensorSpec(("batch", 5))}),
        "reference, forward: network 'net': input 'x' has shape (batch, 4), got (2, 5)",
    ),
    "an input too many": (
        lambda: compared(inputs=X | {"y": fwc.TensorSpec(("batch", 4))}),
        "reference, forward: network 'net' takes 1 inputs (x), got 2",
    ),
    "tokens beyond the vocabulary": (
        lambda: compared(TOKENS, TOKENS, inputs={"x": np.full((2, 3), 7)}),
        "reference, forward: Embedding 'embedding': expected tokens in [0, 7), got 7 to 7",
    ),
    "a model that returns None": (
        lambda: compared(fwc.NumpyFunction(double), fwc.NumpyFunction(lambda x: None)),
        "port, forward: expected an array or several, the function gave output: NoneType, not "
        "an array",
    ),
    "a model that returns text": (
        lambda: compared(fwc.NumpyFunction(double), fwc.NumpyFunction(lambda x: "y")),
        "port, forward: expected an array or several, the function gave output: str, not an array",
    ),
    "a model that raises": (
        lambda: compared(fwc.NumpyFunction(double), fwc.NumpyFunction(lambda x: x.nothing)),
        "port, forward: AttributeError: 'numpy.ndarray' object has no attribute 'nothing'",
    ),
    "an output too few": (
        lambda: compared(
            fwc.NumpyFunction(lambda x: {"a": x, "b": 2 * x}),
            fwc.NumpyFunction(lambda x: {"a": x}),
        ),
        "the reference gives 2 outputs (a, b), the port 1 (a); a missing output is never skipped",
    ),
    "an output of another shape": (
        lambda: compared(
            fwc.NumpyFunction(lambda x: x @ KERNEL), fwc.NumpyFunction(lambda x: x @ KERNEL[:, :2])
        ),
        "output 'output': the reference gives shape (2, 3), the port (2, 2). If only the order of "
        "axes differs, say outputs={'output': TensorSpec(..., axes=\"NCHW\", port_axes=\"NHWC\")}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", FAILED)
def test_models_and_inputs_that_do_not_fit_are_errors_of_their_side(mistake: str) -> None:
    make, message = FAILED[mistake]
    found = make()
    assert found.verdict == "error"
    assert found.message.startswith(message), found.message
    assert "Traceback" not in found.message
    assert message.splitlines()[0][:40] in found.summary()
    with pytest.raises(AssertionError, match="error: the numpy port could not be compared"):
        found.assert_equivalent()


def test_two_models_with_nothing_in_common() -> None:
    wider = fn.Sequential([fn.Dense(5), fn.Dense(2)], input_shape=(4,))
    with pytest.raises(MappingError, match=r"has shape \(4, 5\), but dense.kernel of the refer"):
        compared(NETWORK, wider)
    other = fn.Sequential([fn.Dense(3, name="first")], input_shape=(4,))
    with pytest.raises(MappingError, match="but the reference gave no value of that name"):
        compared(NETWORK, other)


def test_everything_raised_is_one_family() -> None:
    assert issubclass(FrameworkUnavailable, fwc.UsageError)
    assert issubclass(MappingError, FwcompareError)
    assert issubclass(fwc.UsageError, ValueError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "fwcompare_port(net, net)",
            "*UsageError: fwcompare_port: inputs= is missing; say what the models take, in order, "
            'such as inputs={"x": TensorSpec(("batch", 8))}',
        ),
        (
            "fwcompare_port(net, net, input={})",
            "*UsageError: fwcompare_port: unknown keyword 'input'; it takes inputs, weights, *, "
            "fail_on; did you mean 'inputs'?",
        ),
        (
            "fwcompare_port(net, net, inputs={}, tolerance=1e-5)",
            "*UsageError: fwcompare_port: unknown keyword 'tolerance'; it takes inputs, *",
        ),
    ],
)
def test_mistakes_in_calling_a_fixture(pytester: pytest.Pytester, call: str, message: str) -> None:
    pytester.makepyfile(
        f"""
        from pytest_fwcompare import networks as fn

        def test_it(fwcompare_port):
            net = fn.Sequential([fn.Dense(2)], input_shape=(3,))
            {call}
        """
    )
    result = pytester.runpytest("--fwcompare")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E {message}"])
    result.stdout.no_fnmatch_line("*fixtures.py:*")


def test_dtypes_of_numpy_and_of_frameworks_are_names_too() -> None:
    assert fwc.TensorSpec((2,), dtype=np.float32).dtype == "float32"  # type: ignore[arg-type]
    assert fwc.TensorSpec((2,), dtype=np.dtype("int64")).dtype == "int64"  # type: ignore[arg-type]
    assert compared(dtype=np.float64).dtype == "float64"
    torch = pytest.importorskip("torch")
    assert fwc.TensorSpec((2,), dtype=torch.bool).dtype == "bool"


def test_a_side_that_raises_says_what_it_was_called_with() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    made = compared(
        torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), inputs={"x": fwc.TensorSpec((2, 5))}
    )
    assert made.verdict == "error"
    assert "mat1 and mat2" in made.message
    assert made.message.endswith("\nThe reference was called with x float (2, 5)")
    image = {"x": fwc.TensorSpec((2, 8, 9, 3), axes="NHWC", port_axes="NCHW")}
    made = compared(torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(3, 5, 3), inputs=image)
    assert made.message.endswith(
        "\nThe reference was called with x float (2, 8, 9, 3); shape= and axes= of 'x' are the "
        "reference's"
    )


def test_a_side_without_parameters_says_how_they_are_given() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with pytest.raises(MappingError) as raised:
        compared(torch.nn.Linear(4, 3), lambda x: x @ KERNEL)
    assert "the port has no parameters that could be set, and the other side has" in str(
        raised.value
    )
    assert "is given as (function, params)" in str(raised.value)
