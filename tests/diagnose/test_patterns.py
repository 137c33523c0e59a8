"""Faults that only show in what several operations do together, on real recorded passes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(5)
SEQUENCE = RNG.normal(size=(3, 5, 8))
IMAGE = RNG.normal(size=(2, 4, 9, 8))


class Net(nn.Module):
    """A stem, a function of its result, and a head, so that something follows the fault."""

    def __init__(self, middle, stem=None, head=None):
        super().__init__()
        self.stem, self.head = stem or nn.Linear(8, 8), head or nn.Linear(8, 5)
        self.norm = nn.Parameter(torch.ones(8))
        self.middle = middle

    def forward(self, x):
        return torch.tanh(self.head(self.middle(self, self.stem(x))))


def rms(epsilon=1e-6, centred=False):
    def middle(net, x):
        if centred:
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * net.norm

    return middle


def gated(swapped=False):
    def middle(net, x):
        gate, up = x * net.norm, torch.sin(x)
        return F.silu(up) * gate if swapped else F.silu(gate) * up

    return middle


def grouped(tiled=False):
    def middle(net, x):
        batch, time, _ = x.shape
        q = x.view(batch, time, 4, 2).transpose(1, 2)
        k = x[..., :4].reshape(batch, time, 2, 2).transpose(1, 2)
        k = k.repeat(1, 2, 1, 1) if tiled else k.repeat_interleave(2, dim=1)
        weights = torch.softmax(q @ k.transpose(-1, -2), -1)
        return (weights @ k).transpose(1, 2).reshape(batch, time, 8)

    return middle


def rotated(interleaved=False):
    def middle(net, x):
        angles = torch.arange(4.0, dtype=x.dtype)
        if interleaved:
            pairs = x.unflatten(-1, (4, 2))
            turned = torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)
        else:
            first, second = x.chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        return x + turned * torch.cat([angles, angles])

    return middle


def pooled(zeros=False):
    def middle(net, x):
        if zeros:
            return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
        return F.max_pool2d(x, 3, 2, padding=1)

    return middle


def first_of(mean=False):
    return lambda net, x: x.mean(1) if mean else x[:, 0]


FAULTS = {
    "epsilon by hand": (rms(), rms(1e-3), "norm-epsilon", "epsilon=0.001 (reference 1e-06)"),
    "no epsilon": (rms(1e-2), rms(0.0), "norm-epsilon", "no epsilon"),
    "centred": (rms(), rms(centred=True), "norm-axis", "the mean subtracted"),
    "gate": (gated(), gated(True), "activation-place", "silu on the other factor"),
    "heads": (grouped(), grouped(True), "head-split", "all repeated in turn"),
    "heads back": (grouped(True), grouped(), "head-split", "each repeated in turn"),
    "rotation": (rotated(), rotated(True), "position", "interleaved"),
    "token": (first_of(), first_of(True), "reduction", "the mean over axis 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_several_operations(name: str) -> None:
    right, wrong, cause, words = FAULTS[name]
    found = diagnose_pair(Net(right), Net(wrong), SEQUENCE)
    assert (found.cause, found.culprit) == (cause, "")
    assert words in found.evidence[0]


def test_a_border_of_zeros_in_a_maximum() -> None:
    def net(middle):
        return Net(middle, nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1))

    found = diagnose_pair(net(pooled()), net(pooled(True)), IMAGE - 3)
    assert found.cause == "padding-value"
    assert "zeros instead of minus infinity" in found.evidence[0]


@pytest.mark.parametrize("name", FAULTS)
def test_right_networks_of_these_kinds_have_no_fault(name: str) -> None:
    right = FAULTS[name][0]
    found = diagnose_pair(Net(right), Net(right), SEQUENCE)
    assert found.culprit is None
    assert found.cause is None


def test_a_number_added_elsewhere_is_no_epsilon() -> None:
    def shifted(by):
        return lambda net, x: torch.sin(x + by) * 0.5

    found = diagnose_pair(Net(shifted(0.01)), Net(shifted(0.02)), SEQUENCE)
    assert found.cause != "norm-epsilon"


def test_a_mask_that_the_port_lacks_is_no_culprit_by_itself() -> None:
    def middle(additive):
        def run(net, x):
            seen = torch.ones(5, 5, dtype=torch.bool).tril()
            scores = x @ x.transpose(-1, -2)
            if additive:
                later = (1 - seen.to(x.dtype)) * 3.0
                return torch.softmax(scores - later, -1) @ x
            return torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ x

        return run

    found = diagnose_pair(Net(middle(False)), Net(middle(True)), SEQUENCE)
    assert found.operation in ("masked_fill", "softmax")


def exchanged(swapped=False):
    def middle(net, x):
        first, second = x.chunk(2, -1)
        if swapped:
            first, second = second, first
        return torch.cat([torch.tanh(first) * torch.sigmoid(second), x[..., :4]], -1)

    return middle


def test_exchanged_parts_are_not_two_activations() -> None:
    """Each part is found under the other's function, but only the exchange explains the rest."""
    found = diagnose_pair(Net(exchanged()), Net(exchanged(True)), SEQUENCE)
    assert found.cause == "fused-order"


def test_a_mean_of_tensors_that_is_only_a_sum() -> None:
    def middle(count):
        return lambda net, x: F.leaky_relu((x + torch.sin(x) + torch.cos(x)) / count)

    found = diagnose_pair(Net(middle(3)), Net(middle(1)), SEQUENCE)
    assert found.cause == "reduction"
    assert "no divisor (reference 3" in found.evidence[0]


def test_no_activation_is_not_one_that_does_nothing_here() -> None:
    def middle(active):
        return lambda net, x: torch.relu(x * 0.01) if active else x * 0.01

    found = diagnose_pair(Net(middle(True)), Net(middle(False)), SEQUENCE)
    assert found.cause == "activation-place"


@pytest.mark.parametrize(("container", "culprit"), [("list", "parts.0"), ("sequence", "parts")])
def test_a_fault_of_all_layers_is_their_module_s_but_not_a_list_s(container, culprit) -> None:
    class Stack(nn.Module):
        def __init__(self, slope):
            super().__init__()
            layers = [nn.LeakyReLU(slope), nn.LeakyReLU(slope)]
            self.linear = nn.Linear(8, 8)
            self.parts = nn.ModuleList(layers) if container == "list" else nn.Sequential(*layers)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.linear(x)
            if container == "list":
                for part in self.parts:
                    x = part(x)
            else:
                x = self.parts(x)
            return torch.tanh(self.head(x))

    found = diagnose_pair(Stack(0.1), Stack(0.3), SEQUENCE)
    assert (found.cause, found.culprit) == ("activation-parameter", culprit)


def gated_halves(how=""):
    def middle(net, x):
        x = torch.cat([x, torch.sin(x)], -1)
        a, b = x.chunk(2, -1)
        made = {"": F.glu(x, -1), "halves": torch.sigmoid(a) * b, "tanh": a * torch.tanh(b)}
        return made.get(how, a * torch.sigmoid(b + 0.1))

    return middle


@pytest.mark.parametrize(
    ("how", "cause"),
    [("halves", "fused-order"), ("tanh", "activation-variant"), ("shifted", None)],
)
def test_gated_linear_units(how: str, cause: str | None) -> None:
    found = diagnose_pair(Net(gated_halves()), Net(gated_halves(how)), SEQUENCE)
    assert found.cause == cause, found.evidence


def test_a_table_of_waves_in_another_base() -> None:
    steps = torch.arange(5, dtype=torch.float64)[:, None]

    def turned(base, power=1.0):
        rates = base ** (-torch.arange(4, dtype=torch.float64) / 4)
        table = torch.cat([torch.sin(steps * rates), torch.cos(steps * rates) * power], -1)
        return lambda net, x: x + table * 1.0

    right = Net(turned(10000.0))
    found = diagnose_pair(right, Net(turned(1000.0)), SEQUENCE)
    assert found.cause == "position", found.evidence
    assert diagnose_pair(right, Net(turned(10000.0, 0.9)), SEQUENCE).cause is None
