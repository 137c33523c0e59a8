"""For each kind of fault, one that nothing explains: no cause is claimed, whatever is at hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pairs import diagnose_pair
from tape import Tape

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.diagnose import BufferChange, diagnose

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare import TensorSpec  # noqa: E402

RNG = np.random.default_rng(8)
X = RNG.normal(size=(4, 6))


class OddGradient(torch.autograd.Function):
    """The identity, whose gradient is bent by its own values."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1.0 + 0.2 * torch.sin(5.0 * x) + 0.1 * torch.cos(gradient))


class Net(nn.Module):
    def __init__(self, norm_eps=1e-5):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8, eps=norm_eps)
        self.head = nn.Linear(8, 3)

    def bend(self, x):
        return x

    def forward(self, x):
        return self.head(torch.tanh(self.bend(self.norm(self.stem(x)))))


class BentBackward(Net):
    def bend(self, x):
        return OddGradient.apply(x)


class BentForward(Net):
    def bend(self, x):
        return x + 0.02 * torch.sin(3.0 * x) * torch.cos(x.flip(-1))


def test_a_gradient_that_no_rule_gives_has_no_cause() -> None:
    found = diagnose_pair(Net(), BentBackward(), X)
    assert found.backward
    assert found.culprit is not None
    assert found.cause is None


def test_weights_that_were_disturbed_one_by_one_have_no_cause() -> None:
    reference, port = Net(), Net()
    noise = torch.from_numpy(RNG.normal(size=(8, 6)))

    def load(state, strict):
        state = copy.deepcopy(state)
        state["stem.weight"] *= 1.0 + 0.01 * noise
        nn.Module.load_state_dict(port, state)

    port.load_state_dict = load
    found = diagnose_pair(reference, port, X)
    assert (found.culprit, found.cause) == ("stem", None)
    assert found.tried


def test_a_statistic_of_no_known_rule_has_no_cause() -> None:
    before, expected = np.ones(8), 0.9 + 0.1 * RNG.uniform(size=8)
    layer = Parameter("bn.running_var", (8,), "float32", False, "bn", "BatchNorm1d", "running_var")
    change = BufferChange(before, expected, expected + 0.05 * RNG.uniform(size=8))
    found = diagnose([], [], buffer_mismatch={"bn.running_var": change}, reference_layers=[layer])
    assert found.culprit == "bn"
    assert found.cause is None


@pytest.mark.parametrize("verdict", ["precision", "nonfinite"])
def test_noise_of_no_known_source_has_no_cause(verdict) -> None:
    tape = Tape()
    x = tape.input(X)
    y = tape.run("matmul", X @ RNG.normal(size=(6, 5)), x, path="fc")
    value = tape.value(y)
    noisy = value * (1 + 1e-3 * RNG.normal(size=value.shape))
    if verdict == "nonfinite":
        noisy[0, 0] = np.nan
    found = diagnose(
        tape.records,
        tape.records,
        reference_outputs={"output": value},
        port_outputs={"output": value},
        port_working_outputs={"output": noisy.astype(np.float32)},
        verdict=verdict,
    )
    assert found.cause is None
    assert found.evidence == ()


def test_kinks_that_are_none_have_no_cause() -> None:
    def passes(factor):
        tape = Tape()
        x = tape.run("input", X, gradient=factor * np.ones_like(X))
        tape.run("sin", np.sin(X), x, path="f", gradient=np.ones_like(X))
        return tape.records

    assert diagnose(passes(1.0), passes(0.7), verdict="subgradient").cause is None


class OddNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x + 0.3 * torch.sin(3.0 * x) * torch.cos(x.flip(-1)))


def net_with_odd_norm():
    made = Net()
    made.norm = OddNorm(8, eps=1e-2)
    return made


def test_the_comparison_lists_what_was_tried_and_hints_at_options() -> None:
    found = fwc.compare(Net, net_with_odd_norm, inputs={"x": TensorSpec(("batch", 6))}, examples=4)
    assert (found.verdict, found.culprit, found.cause) == ("semantic", "norm", None)
    assert found.hints == (
        "epsilon is 1e-05 (eps) in norm of the reference, 0.01 (eps) in norm of the port",
    )
    assert any(notice.startswith("no cause could be proved; tried: ") for notice in found.notices)
    text = found.summary()
    assert "  hints     epsilon is 1e-05 (eps) in norm of the reference" in text
    assert "  cause" not in text
    assert fwc.Comparison.from_json(found.to_json()) == found


def test_equal_options_are_no_hints() -> None:
    found = fwc.compare(Net, BentForward, inputs={"x": TensorSpec(("batch", 6))}, examples=4)
    assert (found.verdict, found.cause, found.hints) == ("semantic", None, ())
