"""Gradients through time: what a recurrent layer sends back, and where a port cuts it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from pytest_fwcompare.diagnose.operations import Operation  # noqa: E402
from pytest_fwcompare.diagnose.operations.recurrent import recurrent  # noqa: E402
from pytest_fwcompare.diagnose.operations.unrolled import Cut, input_gradient  # noqa: E402

RNG = np.random.default_rng(2)
SEQUENCE = RNG.normal(size=(3, 6, 8))
LAYERS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn_tanh": nn.RNN}


class Net(nn.Module):
    """A recurrent layer by torch, or step by step with a way back that is changed."""

    def __init__(self, cell, back=None):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(6, 4)
        self.layer, self.cell, self.back = LAYERS[cell](8, 6, batch_first=True), cell, back

    def step(self, x, states):
        layer = self.layer
        h = states[0]
        into = F.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
        onto = F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
        if self.cell == "gru":
            r, z = (
                (a + b).sigmoid()
                for a, b in zip(into[:, :12].chunk(2, -1), onto[:, :12].chunk(2, -1), strict=True)
            )
            n = torch.tanh(into[:, 12:] + r * onto[:, 12:])
            return [(1 - z) * n + z * h]
        if self.cell == "rnn_tanh":
            return [torch.tanh(into + onto)]
        i, f, g, o = (into + onto).chunk(4, -1)
        c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]

    def forward(self, x):
        x = self.stem(x)
        if self.back is None:
            return torch.tanh(self.head(self.layer(x)[0]))
        states = [x.new_zeros(len(x), 6)] * (2 if self.cell == "lstm" else 1)
        made = []
        for step in range(x.shape[1]):
            states = self.step(x[:, step], self.back(states, step))
            made.append(states[0])
        return torch.tanh(self.head(torch.stack(made, 1)))


def cut(every=1, only=None):
    def back(states, step):
        if step % every:
            return states
        return [s.detach() if only in (None, n) else s for n, s in enumerate(states)]

    return back


def bent(states, step):
    """A way back that no rule describes."""
    return [s + 0.3 * (torch.sin(3 * s) - torch.sin(3 * s).detach()) for s in states]


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("every", [1, 3])
def test_states_that_are_detached(cell: str, every: int) -> None:
    found = diagnose_pair(Net(cell), Net(cell, cut(every)), SEQUENCE)
    assert found.backward
    assert (found.cause, found.culprit) == ("gradient-path", "layer")
    steps = "step" if every == 1 else f"{every} steps"
    assert f"the way back through time cut at every {steps}, sends back, the" in found.evidence[0]


@pytest.mark.parametrize(("number", "name"), [(0, "hidden"), (1, "cell")])
def test_one_state_that_is_detached(number: int, name: str) -> None:
    found = diagnose_pair(Net("lstm"), Net("lstm", cut(only=number)), SEQUENCE)
    assert (found.cause, found.culprit) == ("gradient-path", "layer")
    assert f"at every step by the {name} state" in found.evidence[0]


@pytest.mark.parametrize("cell", LAYERS)
def test_a_way_back_of_no_known_rule_has_no_cause(cell: str) -> None:
    found = diagnose_pair(Net(cell), Net(cell, bent), SEQUENCE)
    assert (found.backward, found.culprit, found.cause) == (True, "layer", None)


@pytest.mark.parametrize("cell", LAYERS)
def test_a_loop_that_passes_gradients_is_right(cell: str) -> None:
    port = Net(cell, lambda states, step: states)
    assert diagnose_pair(Net(cell), port, SEQUENCE).culprit is None


@pytest.mark.parametrize("cell", LAYERS)
def test_what_comes_back_is_what_torch_says(cell: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[cell](5, 4, num_layers=2, bidirectional=True).double()
    x = torch.from_numpy(RNG.normal(size=(6, 3, 5))).requires_grad_()
    made, last = layer(x)
    wanted = {0: made, 1: last[0] if cell == "lstm" else last}
    if cell == "lstm":
        wanted[2] = last[1]
    states = [np.zeros((4, 3, 4))] * (2 if cell == "lstm" else 1)
    weights = [p.detach().numpy() for p in layer.parameters()]
    options = {"cell": cell, "batch_first": False, "bidirectional": True, "biased": True}
    for output, value in wanted.items():
        gradient = RNG.normal(size=tuple(value.shape))
        (expected,) = torch.autograd.grad(value, x, torch.from_numpy(gradient), retain_graph=True)
        arguments = (x.detach().numpy(), *states, *weights)
        known = Operation("recurrent", cell, arguments, {**options, "output": output}, recurrent)
        obtained = input_gradient(known, gradient, Cut())
        np.testing.assert_allclose(obtained, expected.numpy(), atol=1e-8)
        changed = input_gradient(known, gradient, Cut((0, 1)))
        assert np.abs(changed - obtained).max() > 1e-3


class ByHand(nn.Module):
    """An LSTM written out, its gates cut from one product in an order."""

    def __init__(self, order=(0, 1, 2, 3)):
        super().__init__()
        self.order, self.x, self.h = order, nn.Linear(8, 24), nn.Linear(6, 24, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        for t in range(x.shape[1]):
            parts = (self.x(x[:, t]) + self.h(h)).chunk(4, -1)
            i, f, g, o = (parts[k] for k in self.order)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


def test_the_parts_of_a_cell_written_out_are_gates():
    found = diagnose_pair(ByHand(), ByHand((0, 2, 1, 3)), SEQUENCE)
    assert found.cause == "gate-order"
