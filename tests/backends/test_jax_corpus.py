"""Shadows of the corpus' JAX ports against float64 models of torch and of JAX."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("equinox")

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.jax import JaxBackend  # noqa: E402

FAMILIES = ("tcn", "mixer", "ties")


@pytest.fixture
def x64_put_back():
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def moved(value, axes, to):
    return value if not axes or not to else value.transpose([axes.index(c) for c in to])


def inputs_of(case):
    rng = np.random.default_rng(0)
    sizes = {"batch": 3, "time": 9}
    for name, spec in case.inputs.items():
        value = rng.standard_normal([sizes.get(size, size) for size in spec.shape])
        value = np.round(value * 2) / 2 + 0.25 if spec.kind == "grid" else value
        yield name, value.astype(np.float32), spec.axes, spec.port_axes


def run(case, port):
    """Output and input gradient of the shadow in the reference's axes."""
    side = JaxBackend().adopt(port, dtype="float32", device="cpu", mode="eager", own=False)
    ((name, value, axes, port_axes),) = inputs_of(case)
    passed = side.forward([Argument(name, moved(value, axes, port_axes))], precision="double")
    found = passed.backward({key: np.ones(v.shape) for key, v in passed.outputs.items()})
    (output,) = passed.outputs.values()
    assert output.dtype == np.float64
    assert side.leaks == side.rounded_constants == []
    assert all(v.dtype == np.float64 for v in found.parameters.values())
    return moved(output, port_axes, axes), moved(found.inputs[name], port_axes, axes), found


def made(ports, family, dtype, fault=None):
    (case,) = ports.load_family(family)
    torch.manual_seed(0)
    reference, port = case.make_reference("float32"), case.make_port(dtype, fault)
    case.copy_weights(reference, port)
    return case, reference, port


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_shadows_of_right_ports_equal_torch_in_float64(ports, family):
    case, reference, port = made(ports, family, "float32")
    ((_, value, _, _),) = inputs_of(case)
    tensor = torch.tensor(value.astype(np.float64), requires_grad=True)
    expected = reference.double()(tensor)
    expected.sum().backward()
    output, gradient, _ = run(case, port)
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "fault"),
    [("mixer", "norm-epsilon-1e-6"), ("tcn", "skip-gradient-stopped")],
)
def test_shadows_of_wrong_ports_keep_the_fault(ports, family, fault, x64_put_back):
    case, _, narrow = made(ports, family, "float32", fault)
    shadow, shadow_gradient, shadow_found = run(case, narrow)
    case, _, port = made(ports, family, "float64", fault)  # switches 64-bit mode on
    wide, wide_gradient, wide_found = run(case, port)
    np.testing.assert_allclose(shadow, wide, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(shadow_gradient, wide_gradient, rtol=1e-12, atol=1e-13)
    for name, gradient in wide_found.parameters.items():
        np.testing.assert_allclose(
            shadow_found.parameters[name], gradient, rtol=1e-11, atol=1e-12, err_msg=name
        )
    _, _, right = made(ports, family, "float64")
    right_output, right_gradient, _ = run(case, right)
    differences = (
        np.abs(right_output - shadow).max(),
        np.abs(right_gradient - shadow_gradient).max(),
    )
    assert max(differences) > 1e-7


@pytest.mark.filterwarnings("ignore")
def test_working_precision_stays_float32_in_a_process_in_64_bit_mode(ports, x64_put_back):
    case, _, port = made(ports, "mixer", "float32")
    jax.config.update("jax_enable_x64", True)
    side = JaxBackend().adopt(port, dtype="float32", device="cpu", mode="compiled", own=False)
    ((name, value, _, _),) = inputs_of(case)
    passed = side.forward([Argument(name, value)], precision="working")
    assert passed.outputs["output"].dtype == np.float32
    error = np.abs(passed.outputs["output"] - run(case, port)[0]).max()
    assert 0 < error < 1e-5
    assert jax.config.jax_enable_x64 is True
