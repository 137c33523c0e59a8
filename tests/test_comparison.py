"""`compare` from end to end on small torch models: every verdict, and every clear refusal."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
nn = torch.nn

FEATURES = {"features": fwc.TensorSpec(("batch", 6), kind="normal")}


class Port(nn.Module):
    """Linear, norm, activation, linear; the parts that tests exchange are arguments."""

    def __init__(self, epsilon=1e-5, activation=None, between=None, dropout=None):
        super().__init__()
        self.lift = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8, eps=epsilon)
        self.activation = activation or nn.Tanh()
        self.between = between or (lambda x: x)
        self.dropout = dropout
        self.read = nn.Linear(8, 3)

    def forward(self, features):
        x = self.between(self.activation(self.norm(self.lift(features))))
        if self.dropout is not None:
            x = nn.functional.dropout(x, self.dropout, training=True)
        return self.read(x)


def judged(reference, port, inputs=None, **keywords) -> fwc.Comparison:
    keywords.setdefault("examples", 12)
    return fwc.compare(reference, port, inputs=inputs or FEATURES, **keywords)


def test_a_right_port_is_equivalent_and_the_pass_could_have_failed():
    found = judged(Port(), Port())
    assert found.verdict == "equivalent"
    assert found.gap < 1e-12
    assert 0 < found.noise < 1e-5
    assert found.examples.count == 12
    assert {row.name for row in found.tensors} >= {
        "output output",
        "gradient of input features",
        "gradient of lift.weight",
    }
    assert found.controls.tried
    assert found.controls.caught == len(found.controls.tried)
    assert found.controls.uncovered == ()
    found.assert_equivalent()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1.1e-5])
def test_another_epsilon_is_another_function(epsilon):
    found = judged(Port(), Port(epsilon=epsilon))
    assert found.verdict == "semantic"
    assert found.culprit == "norm"
    assert found.cause == "norm-epsilon"
    with pytest.raises(AssertionError, match="semantic"):
        found.assert_equivalent()


def test_a_half_precision_detour_is_precision():
    found = judged(Port(), Port(between=lambda x: x.half().to(x.dtype)))
    assert found.verdict == "precision"


def test_noise_in_the_reference_accuses_nobody():
    found = judged(Port(between=lambda x: x.half().to(x.dtype)), Port())
    assert found.verdict == "equivalent"


def test_a_stopped_gradient_is_semantic_though_outputs_agree():
    found = judged(Port(), Port(between=lambda x: x.detach()))
    assert found.verdict == "semantic"
    assert all(row.kind != "output" for row in found.tensors if row.verdict == "semantic")


class HalfAtZero(torch.autograd.Function):
    """relu with the derivative 1/2 at 0, an equally valid choice."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return gradient * (0.5 * (torch.sign(x) + 1))


class Rectifier(nn.Module):
    def __init__(self, rectify):
        super().__init__()
        self.rectify = rectify
        self.read = nn.Linear(6, 3)

    def forward(self, features):
        return self.read(self.rectify(features))


GRID = {"features": fwc.TensorSpec(("batch", 6), kind="grid")}


def test_another_derivative_at_a_kink_is_no_fault():
    found = judged(Rectifier(torch.relu), Rectifier(HalfAtZero.apply), GRID)
    assert found.verdict == "subgradient"
    assert found.passed
    found.assert_equivalent()
    with pytest.raises(AssertionError):
        found.assert_equivalent(fail_on=("subgradient",))


def test_a_gradient_that_is_not_finite_at_asked_for_values_is_nonfinite():
    found = judged(Rectifier(torch.abs), Rectifier(lambda x: torch.sqrt(x * x)), GRID)
    assert found.verdict == "nonfinite"


def test_overflow_on_one_side_is_nonfinite():
    def naive(x):
        return torch.log(1 + torch.exp(x))

    found = judged(Rectifier(nn.functional.softplus), Rectifier(naive))
    assert found.verdict == "nonfinite"
    assert found.examples.worst is not None
    assert found.examples.worst.shapes["features"] == (1, 6)


def test_something_random_in_inference_is_named_first():
    found = judged(Port(), Port(dropout=0.5))
    assert found.verdict == "semantic"
    assert found.cause == "dropout"
    assert any("the port differs from itself between two equal calls" in n for n in found.notices)


def test_equal_seeds_give_equal_figures():
    torch.manual_seed(0)
    reference, port = Port(), Port()
    one, two = (judged(reference, port, seed=4) for _ in range(2))
    assert one.tensors == two.tensors
    assert judged(reference, port, seed=5).tensors != one.tensors


def test_given_weights_are_not_touched_and_are_judged_as_they_are():
    torch.manual_seed(0)
    reference = Port()
    copy = Port()
    copy.load_state_dict(reference.state_dict())
    assert judged(reference, copy, weights="given").verdict == "equivalent"
    assert judged(reference, Port(), weights="given").verdict == "semantic"


def test_models_are_left_as_they_were_found():
    reference, port = Port(), Port(epsilon=1e-3)
    port.train()
    port.lift.weight.requires_grad_(False)
    port.read.weight.grad = torch.ones_like(port.read.weight)
    before = {name: value.clone() for name, value in port.state_dict().items()}
    state = torch.random.get_rng_state()
    judged(reference, port)
    assert port.training
    assert not port.lift.weight.requires_grad
    assert torch.equal(port.read.weight.grad, torch.ones_like(port.read.weight))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in port.state_dict().items():
        assert torch.equal(before[name], value)


def test_a_dead_parameter_is_reported_as_not_covered():
    class Dead(Port):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(4, 4)

    found = judged(Dead(), Dead())
    assert found.verdict == "equivalent"
    assert set(found.controls.uncovered) == {"unused.weight", "unused.bias"}


def test_a_comparison_survives_json():
    found = judged(Port(), Port(epsilon=1e-3))
    assert fwc.Comparison.from_json(found.to_json()) == found


class Two(nn.Module):
    """Outputs in a dict, some of them exchanged by tests."""

    def __init__(self, outputs):
        super().__init__()
        self.read = nn.Linear(6, 3)
        self.outputs = outputs

    def forward(self, features):
        return self.outputs(self.read(features))


@pytest.mark.parametrize(
    ("reference", "port", "message"),
    [
        (
            lambda y: {"a": y, "b": y + 1},
            lambda y: {"a": y},
            "the reference gives 2 outputs (a, b), the port 1 (a); a missing output is never "
            "skipped",
        ),
        (
            lambda y: y,
            lambda y: y[:, :2],
            "output 'output': the reference gives shape (2, 3), the port (2, 2)",
        ),
        (
            lambda y: y,
            lambda y: y.argmax(-1, keepdim=True).expand(-1, 3),
            "output 'output': the reference gives floats, the port integers",
        ),
    ],
)
def test_structure_is_compared_before_values(reference, port, message):
    found = judged(Two(reference), Two(port))
    assert found.verdict == "error"
    assert message in found.message
    with pytest.raises(AssertionError):
        found.assert_equivalent()


def test_a_model_that_raises_is_an_error_of_its_side():
    def fail(_):
        raise RuntimeError("no such kernel")

    found = judged(Port(), Port(between=fail))
    assert found.verdict == "error"
    assert found.message.startswith("port, ")
    assert "no such kernel" in found.message


class Images(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.read = nn.Conv2d(3, 2, 3)
        self.last = last

    def forward(self, images):
        return self.read(images.permute(0, 3, 1, 2) if self.last else images)


def test_a_forgotten_axis_order_is_answered_with_what_to_write():
    found = judged(Images(False), Images(True), {"images": fwc.TensorSpec(("batch", 3, 8, 8))})
    assert found.verdict == "error"
    assert "The port got 'images' in the reference's axis order" in found.message
    assert 'TensorSpec(..., axes="NCHW", port_axes="NHWC")' in found.message
    assert "\x1b" not in found.message
    said = fwc.TensorSpec(("batch", 3, 8, 8), axes="NCHW", port_axes="NHWC")
    assert judged(Images(False), Images(True), {"images": said}).verdict == "equivalent"


def test_a_failure_of_flat_inputs_gets_no_hint_of_axes():
    def fail(_):
        raise RuntimeError("\x1b[1mno such kernel\x1b[0m")

    found = judged(Port(), Port(between=fail))
    assert "no such kernel\nThe port was called with features float (" in found.message
    assert "axes" not in found.message


def test_a_model_that_returns_no_tensor_is_an_error():
    found = judged(Two(lambda y: y), Two(lambda y: None))
    assert found.verdict == "error"
    assert "port" in found.message


def no_model():
    return None


def broken():
    raise OSError("weights are not here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 3}, "port: expected a model"),
        ({"reference": "text"}, "reference: expected a model"),
        ({"port": no_model}, "port: the factory no_model returned None; expected a model"),
        ({"inputs": {}}, "inputs: expected a dict of at least one input"),
        ({"inputs": {"x": object()}}, "inputs['x']: expected a TensorSpec"),
        ({"weights": 7}, 'weights: expected "auto", "given", a dict'),
        ({"checks": ()}, "checks: expected some of forward, backward, training"),
        ({"checks": "forward"}, "checks: expected some of forward, backward, training"),
        ({"checks": ("sideways",)}, "got ('sideways',)"),
        ({"dtype": "float8"}, "dtype: unknown 'float8'; the dtypes are float32, float64"),
        ({"device": "tpu"}, "device: unknown 'tpu'; devices are cpu, cuda, cuda:N, "),
        ({"device": "cpu:1"}, "device: unknown 'cpu:1'"),
        ({"mode": "fast"}, "mode: unknown 'fast'; the modes are eager, graph, compiled"),
        ({"examples": 0}, "examples: expected an integer of at least 1, got 0"),
        ({"examples": True}, "examples: expected an integer of at least 1, got True"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"outputs": {"y": "NCHW"}}, "outputs: expected a dict {name: TensorSpec}"),
    ],
)
def test_bad_requests_are_refused_with_one_clear_error(changes, message):
    arguments = {"reference": Port(), "port": Port(), "inputs": FEATURES} | changes
    reference, port = arguments.pop("reference"), arguments.pop("port")
    with pytest.raises(fwc.UsageError) as caught:
        fwc.compare(reference, port, **arguments)
    assert message in str(caught.value)


def test_a_device_that_is_not_there_is_said():
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(fwc.UsageError, match="'cuda' was asked for, but torch sees cpu here"):
        judged(Port(), Port(), device="cuda")


def test_a_factory_that_raises_is_named():
    with pytest.raises(fwc.FwcompareError, match="the factory broken raised OSError: weights"):
        judged(Port(), broken)


def test_axes_of_an_output_are_found_by_shape_and_said():
    class Channels(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, padding=1)
            self.last = last

        def forward(self, images):
            y = self.conv(images)
            return y.permute(0, 2, 3, 1) if self.last else y

    found = judged(
        Channels(False),
        Channels(True),
        {"images": fwc.TensorSpec(("batch", 2, 5, 6), kind="normal")},
    )
    assert found.verdict == "equivalent"
    assert any("taken as the port's, by shape" in notice for notice in found.notices)
    assert np.isfinite(found.noise)


class Cache:
    """Holds tensors and is none."""


@pytest.mark.parametrize(
    ("reference", "port", "notice"),
    [
        (
            lambda y: {"y": y, "past": Cache()},
            lambda y: {"y": y, "past": (2 * y, 3 * y)},
            "port: output 'past' (2 tensors) is not compared: on the reference's side it is not "
            "a tensor but Cache",
        ),
        (
            lambda y: {"y": y, "past": ((2 * y,), y)},
            lambda y: {"y": y, "past": Cache()},
            "reference: output 'past' (2 tensors) is not compared: on the port's side it is not "
            "a tensor but Cache",
        ),
        (
            lambda y: {"y": y, "past": None},
            lambda y: {"past": 2 * y, "y": y},
            "port: output 'past' (1 tensors) is not compared: on the reference's side it is None",
        ),
    ],
)
def test_tensors_that_stand_for_an_object_of_the_other_side_are_left_out_and_said(
    reference, port, notice
):
    found = judged(Two(reference), Two(port))
    assert found.verdict == "equivalent", found.summary()
    assert notice in found.notices
    assert [row.name for row in found.tensors if row.name.startswith("output")] == ["output y"]


def test_a_tensor_of_the_reference_that_the_port_leaves_none_is_an_error():
    found = judged(Two(lambda y: {"y": y, "z": 2 * y}), Two(lambda y: {"y": y, "z": None}))
    assert found.verdict == "error"
    assert (
        "the reference gives 2 outputs (y, z), the port 1 (y); a missing output" in found.message
    )


class Windows(nn.Module):
    """A convolution that needs a few samples; `least` more of them than the kernel in the port."""

    def __init__(self, least=0):
        super().__init__()
        self.filter = nn.Conv1d(1, 2, 4)
        self.least = least

    def forward(self, samples):
        if samples.shape[-1] < self.least:
            raise ValueError("too few samples")
        return self.filter(samples)


SAMPLES = {"samples": fwc.TensorSpec(("batch", 1, "samples"), kind="normal")}


def test_sizes_that_the_reference_cannot_take_are_left_out():
    found = judged(Windows(), Windows(), inputs=SAMPLES)
    assert found.verdict == "equivalent", found.summary()
    assert any("left out, as the reference cannot run them" in text for text in found.notices)


def test_sizes_that_only_the_port_cannot_take_are_its_error():
    found = judged(Windows(), Windows(least=6), inputs=SAMPLES)
    assert found.verdict == "error"
    assert found.message.startswith("port, forward: torch raised ValueError: too few samples\n")
    assert found.message.endswith("The port was called with samples float (2, 1, 5)")
