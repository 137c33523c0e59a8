"""Faults that look like another one on the values at hand: they must not be named so."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare import TensorSpec  # noqa: E402

ROWS = TensorSpec(("batch", 6))
STEPS = TensorSpec(("batch", 3, 6))


class Net(nn.Module):
    """Two layers, and a function of what they give."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two, self.function = nn.Linear(6, 8), nn.Linear(6, 8), function

    def forward(self, x):
        return self.function(self.one(x), self.two(x))


def judged(right, wrong, inputs=ROWS, net=Net, seed=3):
    def made(function):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return net(function)

    return fwc.compare(
        lambda: made(right), lambda: made(wrong), inputs={"x": inputs}, examples=4, seed=seed
    )


def test_a_limit_that_nothing_reaches_is_not_a_missing_activation() -> None:
    def net(limit):
        return lambda a, b: torch.sin(b + limit(a * 0.1))

    missing = judged(net(torch.tanh), net(lambda x: x))
    idle = judged(net(torch.tanh), net(lambda x: x.clamp(-1e4, 1e4)))
    assert missing.cause == "activation-place"
    assert idle.cause in (None, "activation-variant")
    if idle.cause is not None:
        assert "clamp, which changes none of these values, instead of tanh" in idle.evidence[0]


@pytest.mark.parametrize("factor", [0.1, 0.7])
def test_a_scaled_branch_is_no_residual(factor) -> None:
    found = judged(
        lambda a, b: torch.sigmoid(a.sum(-1) + 0.5 * (b * b).sum(-1)),
        lambda a, b: torch.sigmoid(a.sum(-1) + 0.5 * factor * (b * b).sum(-1)),
    )
    assert (found.verdict, found.cause) == ("semantic", None), found.evidence


def test_a_scaled_residual_is_one() -> None:
    found = judged(
        lambda a, b: torch.sin(a + torch.tanh(a * b)),
        lambda a, b: torch.sin(a + 0.7 * torch.tanh(a * b)),
    )
    assert found.cause == "residual"
    assert "one summand scaled by 0.7 (reference 1)" in found.evidence[0]


def test_a_mean_for_a_sum_is_a_reduction_even_behind_a_factor() -> None:
    found = judged(
        lambda a, b: torch.sigmoid(a.sum(-1) + 0.5 * (b * b).sum(-1)),
        lambda a, b: torch.sigmoid(a.sum(-1) + 0.5 * (b * b).mean(-1)),
    )
    assert found.cause == "reduction", found.evidence


def test_what_is_found_again_in_another_order_is_found_once() -> None:
    """The port computes |x| on its way, and moves it: no gelu was meant to be one."""

    def wrong(x):
        apart = x.abs().mT
        return x / (1.0 + 0.3 * apart.mT) ** 2

    def net(function):
        return lambda a, b: torch.sin(function(a).mT.mT + b)

    assert judged(net(F.gelu), net(wrong)).cause is None


def test_a_scaled_input_of_a_norm_is_no_epsilon() -> None:
    def norm(x):
        return F.layer_norm(x, (8,), eps=1e-5)

    found = judged(
        lambda a, b: torch.sin(norm(1e-2 * (a + b))),
        lambda a, b: torch.sin(norm(1e-2 * (a + b) * 1.07)),
    )
    assert (found.verdict, found.cause) == ("semantic", None), found.evidence


@pytest.mark.parametrize("seed", range(4))
def test_the_larger_of_two_is_not_one_of_them_left_out(seed) -> None:
    """With few rows one of both may always be the larger; on more of them it is not."""
    found = judged(
        lambda a, b: torch.sin(a.sum(-1) + b.sum(-1)),
        lambda a, b: torch.sin(torch.maximum(a.sum(-1), b.sum(-1))),
        seed=seed,
    )
    assert (found.verdict, found.cause) == ("semantic", None), found.evidence


class Chain(nn.Module):
    """A layer, a function, a layer."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two, self.function = nn.Linear(6, 8), nn.Linear(8, 4), function

    def forward(self, x):
        return self.two(F.relu(self.function(self.one(x))))


def test_behind_a_relu_that_lets_nothing_through_everything_is_alike() -> None:
    found = judged(lambda x: x.sin(), lambda x: -x.abs() - 1.0, net=Chain)
    assert (found.verdict, found.cause) == ("semantic", None), found.evidence


class Cell(nn.Module):
    """An LSTM written out; `function` squashes its state for the output."""

    def __init__(self, function):
        super().__init__()
        self.gates, self.again, self.function = nn.Linear(6, 32), nn.Linear(8, 32), function

    def forward(self, x):
        h, c, made = torch.zeros_like(x[:, :1, :1]).expand(-1, 1, 8)[:, 0], 0.0, []
        for step in range(3):
            i, f, g, o = (self.gates(x[:, step]) + self.again(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.function(c)
            made.append(h)
        return torch.stack(made, 1)


def test_a_cell_whose_output_is_not_squashed_is_another_cell() -> None:
    found = judged(torch.tanh, lambda c: c, STEPS, Cell)
    assert found.verdict == "semantic"
    assert found.cause in ("cell-variant", None), found.evidence


def test_a_parameter_added_behind_a_scale() -> None:
    class Scaled(nn.Module):
        def __init__(self, late):
            super().__init__()
            self.shift, self.log = (nn.Parameter(torch.randn(6)) for _ in range(2))
            self.late, self.head = late, nn.Linear(6, 4)

        def forward(self, x):
            scale = self.log.exp()
            return self.head(x * scale + self.shift if self.late else (x + self.shift) * scale)

    found = judged(False, True, net=Scaled)
    assert found.cause == "bias"
    assert "the parameter added after mul" in found.evidence[0]


@pytest.mark.parametrize(
    ("temperature", "cause"),
    [
        (1.001 * 0.15, "activation-parameter"),  # written as a share of the reference's
        (0.1501, "activation-parameter"),
        (0.15 * 1.234567, None),  # a number that nobody writes: whatever made it so, it is unknown
    ],
)
def test_a_temperature_is_named_if_somebody_would_write_it(temperature, cause) -> None:
    def net(divisor):
        return lambda a, b: torch.softmax((a + b) / divisor, -1)

    found = judged(net(0.15), net(temperature))
    assert (found.verdict, found.cause) == ("semantic", cause), found.evidence
