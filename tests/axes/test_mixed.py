"""Mixed precision and TF32: what is kept, what is narrow, what is put back, what is said."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.errors import FrameworkUnavailable
from pytest_fwcompare.formats import FORMATS
from pytest_fwcompare.networks import layers as fn
from pytest_fwcompare.networks import zoo
from pytest_fwcompare.sides import InFramework

INPUTS = {"x": fwc.TensorSpec(("batch", 8))}
MIXED = ("mixed_float16", "mixed_bfloat16")


def torch_model(factor=1.0):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(8, 6), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.second(torch.tanh(factor * self.first(x)))

    return Model()


def keras_model(factor=1.0):
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6),
            keras.layers.Rescaling(factor),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(3),
        ]
    )


def jax_model(factor=1.0):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    params = {
        "first": rng.normal(size=(8, 6)).astype("float32"),
        "second": rng.normal(size=(6, 3)).astype("float32"),
    }

    def function(params, x):
        return jax.numpy.tanh(factor * (x @ params["first"])) @ params["second"]

    return function, params


MAKERS = {"torch": torch_model, "keras": keras_model, "jax": jax_model}


@pytest.mark.parametrize("dtype", MIXED)
@pytest.mark.parametrize("name", MAKERS)
def test_parameters_are_kept_in_float32_and_products_are_narrow(name, dtype):
    model = MAKERS[name]()
    made = FORMATS[dtype]
    backend = registry.backend(name)
    assert dtype in backend.dtypes
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    with backend.adopt(model, dtype=dtype, device="cpu", mode="eager", own=False) as side:
        side.prepare([Argument("x", x)])
        assert {parameter.dtype for parameter in side.parameters()} == {"float32"}
        working = side.forward([Argument("x", x)], precision="working").outputs["output"]
        exact = side.forward([Argument("x", x)], precision="double").outputs["output"]
        assert exact.dtype == np.float64
        assert side.leaks == []
        noise = np.abs(working - exact).max() / np.abs(exact).max()
        assert 0.05 * made.roundoff < noise < 16 * made.roundoff


@pytest.mark.parametrize("name", MAKERS)
def test_a_port_in_mixed_precision_is_judged_in_narrow_units(name):
    make = MAKERS[name]
    found = fwc.compare(make(), make(), inputs=INPUTS, dtype="mixed_bfloat16", examples=4)
    assert found.verdict == "equivalent", found.summary()
    assert 1e-4 < found.noise < 0.1
    assert found.controls.caught > 0
    assert {control.size for control in found.controls.tried} == {64 * 2.0**-8}
    weights = {key: key for key in ("first", "second")} if name == "jax" else "auto"
    wrong = fwc.compare(
        *(make(), make(1.3)),
        inputs=INPUTS,
        weights=weights,
        dtype="mixed_bfloat16",
        examples=6,
        explain=False,
    )
    assert wrong.verdict == "semantic"


def test_keras_layers_get_their_policies_back_and_keep_their_own():
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, name="plain"),
            keras.layers.Dense(3, name="chosen", dtype="mixed_float16"),
        ]
    )
    with registry.backend("keras").adopt(
        model, dtype="mixed_bfloat16", device="cpu", mode="eager", own=False
    ):
        assert model.get_layer("plain").compute_dtype == "bfloat16"
        assert model.get_layer("chosen").compute_dtype == "float16"
    assert model.get_layer("plain").compute_dtype == "float32"
    assert model.get_layer("chosen").compute_dtype == "float16"


def test_jax_keeps_running_statistics_in_float32():
    pytest.importorskip("jax")
    network = zoo.residual_network(size=8, classes=3)
    found = fwc.compare(
        InFramework(network, "numpy"),
        InFramework(network, "jax"),
        inputs=network.inputs,
        dtype="mixed_bfloat16",
        examples=2,
        checks=("forward",),
    )
    assert found.verdict == "equivalent", found.summary()


def test_raw_tensorflow_has_no_mixed_precision():
    pytest.importorskip("tensorflow")
    network = zoo.lenet(size=16)
    with pytest.raises(
        FrameworkUnavailable,
        match="dtype 'mixed_float16' was asked for, but tensorflow computes in float32, float64, ",
    ):
        fwc.compare(
            network,
            InFramework(network, "tensorflow"),
            inputs=network.inputs,
            dtype="mixed_float16",
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["torch", "tensorflow", "keras", "jax"])
def test_described_networks_run_in_sixteen_bits(name, dtype):
    pytest.importorskip(name)
    network = fn_network()
    sides = InFramework(network, "numpy"), InFramework(network, name)
    found = fwc.compare(*sides, inputs=network.inputs, dtype=dtype, examples=8)
    assert found.verdict == "equivalent", found.summary()
    assert found.gap < 1e-12
    assert found.noise > FORMATS[dtype].roundoff / 16


def fn_network():
    from pytest_fwcompare import networks

    return networks.Sequential(
        [fn.Dense(6), fn.LayerNorm(), fn.Activation("gelu"), fn.Dense(3), fn.Softmax()],
        input_shape=(8,),
    )


class TestReducedProducts:
    """TF32 that a model switches on is off again afterwards, told, and held against the noise."""

    @pytest.fixture
    def greedy(self):
        torch = pytest.importorskip("torch")

        class Greedy(torch.nn.Linear):
            def forward(self, x):
                torch.set_float32_matmul_precision("high")
                if x.dtype is torch.float64:
                    return super().forward(x)
                # What a GPU then does to both operands, ten bits behind the point.
                return torch.nn.functional.linear(ten_bits(x), ten_bits(self.weight), self.bias)

        def ten_bits(value):
            mantissa, exponent = torch.frexp(value)
            rounded = torch.round(mantissa.detach() * 2**11) / 2**11
            return value + (torch.ldexp(rounded, exponent) - value).detach()

        before = torch.get_float32_matmul_precision()
        yield Greedy(8, 3)
        assert torch.get_float32_matmul_precision() == before

    def test_it_is_told_and_explains_the_noise(self, greedy):
        torch = pytest.importorskip("torch")
        found = fwc.compare(torch.nn.Linear(8, 3), greedy, inputs=INPUTS, explain=False)
        assert found.verdict == "precision"
        (said,) = [text for text in found.notices if "less exactly than float32" in text]
        assert said.startswith(
            "the port let torch compute products less exactly than float32, which is off for "
            "judging: float32_matmul_precision 'high'"
        )
        assert "TF32 explains the noise of " in said

    def test_noise_that_it_does_not_explain_stays_a_fault(self, greedy):
        torch = pytest.importorskip("torch")

        class Coarse(type(greedy)):
            def forward(self, x):
                y = super().forward(x)
                return y if x.dtype is torch.float64 else y * (1 + 0.3 * torch.sin(1e3 * y))

        found = fwc.compare(torch.nn.Linear(8, 3), Coarse(8, 3), inputs=INPUTS, explain=False)
        assert found.verdict == "precision"
        assert not any("explains the noise" in text for text in found.notices)
        assert any("less exactly than float32" in text for text in found.notices)

    def test_the_users_own_setting_is_off_for_judging_and_stays(self):
        torch = pytest.importorskip("torch")
        seen = []

        class Spy(torch.nn.Linear):
            def forward(self, x):
                seen.append(torch.get_float32_matmul_precision())
                return super().forward(x)

        torch.set_float32_matmul_precision("medium")
        try:
            found = fwc.compare(torch.nn.Linear(8, 3), Spy(8, 3), inputs=INPUTS, examples=2)
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")
        assert found.verdict == "equivalent"
        assert set(seen) == {"highest"}
        assert found.environment["torch"]["float32_matmul_precision"].startswith("medium")

    def test_tensorflows_switch_is_off_for_judging_and_stays(self):
        tf = pytest.importorskip("tensorflow")
        seen = []
        allowed = tf.config.experimental.tensor_float_32_execution_enabled

        class Spy(tf.Module):
            def __init__(self):
                self.kernel = tf.Variable(np.ones((8, 3), "float32"))

            def __call__(self, x):
                if tf.executing_eagerly():
                    seen.append(allowed())
                return x @ self.kernel

        before = allowed()
        fwc.compare(Spy(), Spy(), inputs=INPUTS, examples=2, weights={"kernel": "kernel"})
        assert allowed() is before
        assert set(seen) == {False}
