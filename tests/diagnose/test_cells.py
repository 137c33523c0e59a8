"""Recurrent cells that are written out: read as layers, their variants proved at all steps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

FEATURES, UNITS = 5, 6
SERIES = np.random.default_rng(5).normal(size=(3, 5, FEATURES))


class Lstm(nn.Module):
    """A step of an LSTM, one product of the input and one of the state."""

    states = 2

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.x, self.h = nn.Linear(FEATURES, 4 * UNITS), nn.Linear(UNITS, 4 * UNITS, bias=False)

    def gates(self, x, h):
        return (self.x(x) + self.h(h)).chunk(4, -1)

    def forward(self, x, states):
        h, c = states
        i, f, g, o = self.gates(x, h)
        fault = self.fault
        if fault == "order":
            f, o = o, f
        if fault == "forget-bias":
            f = f + 1.0
        squash = F.hardsigmoid if fault == "hard" else torch.sigmoid
        i, f, o = squash(i), squash(f), squash(o)
        if fault == "coupled":
            i = 1 - f
        if fault == "twice":
            i = i * i
        new = f * c + i * (g.relu() if fault == "relu" else g.tanh())
        if fault == "limit":
            new = new.clamp(-0.35, 0.35)
        hidden = o * (new if fault == "unsquashed" else new.tanh())
        if fault == "zoneout":
            hidden = 0.1 * h + 0.9 * hidden
        if fault == "doubled":
            hidden = hidden + hidden * x.mean(-1, keepdim=True)
        return hidden, new


class Joined(Lstm):
    """The same with one product of input and state together."""

    def __init__(self, fault=""):
        super().__init__(fault)
        del self.x, self.h
        self.kernel = nn.Parameter(torch.zeros(FEATURES + UNITS, 4 * UNITS))
        self.bias = nn.Parameter(torch.zeros(4 * UNITS))

    def gates(self, x, h):
        return (torch.cat([x, h], -1) @ self.kernel + self.bias).split(UNITS, -1)


class Apart(Lstm):
    """The same with a product for each gate."""

    def __init__(self, fault=""):
        super().__init__(fault)
        del self.x, self.h
        self.of_x = nn.ModuleList([nn.Linear(FEATURES, UNITS) for _ in range(4)])
        self.of_h = nn.ModuleList([nn.Linear(UNITS, UNITS, bias=False) for _ in range(4)])

    def gates(self, x, h):
        made = [a(x) + b(h) for a, b in zip(self.of_x, self.of_h, strict=True)]
        return made[1], made[0], made[3], made[2]


class Gru(nn.Module):
    """A step of a GRU."""

    states = 1

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.x, self.h = nn.Linear(FEATURES, 3 * UNITS), nn.Linear(UNITS, 3 * UNITS)

    def forward(self, x, states):
        (h,), fault = states, self.fault
        (xz, xr, xn), (hz, hr, hn) = self.x(x).chunk(3, -1), self.h(h).chunk(3, -1)
        z, r = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
        if fault == "order":
            z, r = r, z
        if fault == "reset":
            part = slice(2 * UNITS, None)
            n = torch.tanh(xn + F.linear(r * h, self.h.weight[part], self.h.bias[part]))
        else:
            n = (xn + r * hn).relu() if fault == "relu" else torch.tanh(xn + r * hn)
        if fault == "complement":
            z = 1 - z
        return ((z + (0.5 * r if fault == "doubled" else 0)) * h + (1 - z) * n,)


class Called(nn.Module):
    """Torch's own cell."""

    states = 2

    def __init__(self, fault=""):
        super().__init__()
        self.fault, self.own = fault, nn.LSTMCell(FEATURES, UNITS)

    def forward(self, x, states):
        h, c = self.own(x, states)
        if self.fault == "doubled":
            h = h + h * x.mean(-1, keepdim=True)
        return h, c


CELLS = {"lstm": Lstm, "joined": Joined, "apart": Apart, "gru": Gru, "called": Called}


class Net(nn.Module):
    """Runs a cell in a loop over (batch, time, features)."""

    def __init__(self, cell, fault="", takes="all"):
        super().__init__()
        self.cell, self.fault, self.takes = CELLS[cell](fault), fault, takes
        self.stem, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(UNITS, 3)

    def forward(self, x):
        x = self.stem(x)
        start = 0.7 if self.fault == "start" else 0.0
        states = (x.new_full((len(x), UNITS), start),) * self.cell.states
        first, made = states, []
        order = range(x.shape[1])
        for step in reversed(order) if self.fault == "backwards" else order:
            states = self.cell(x[:, step], first if self.fault == "forgotten" else states)
            made.append(states[0])
        y = made[-1] if self.takes == "last" else torch.stack(made, 1)
        return self.head(y), states[-1]


CAUSES = {
    "order": "gate-order",
    "forget-bias": "bias",
    "hard": "activation-variant",
    "relu": "activation-variant",
    "coupled": "cell-variant",
    "limit": "clipping",
    "unsquashed": "cell-variant",
    "zoneout": "cell-variant",
    "reset": "cell-variant",
    "complement": "cell-variant",
    "start": "initial-state",
    "forgotten": "initial-state",
    "backwards": "initial-state",
}
OF_LSTM = [f for f in CAUSES if f not in ("reset", "complement")]
OF_GRU = ["order", "relu", "reset", "complement", "start", "forgotten", "backwards"]


@pytest.mark.parametrize(
    ("cell", "fault"), [*(("lstm", f) for f in OF_LSTM), *(("gru", f) for f in OF_GRU)]
)
def test_variants_of_a_cell_that_is_written_out(cell: str, fault: str) -> None:
    found = diagnose_pair(Net(cell), Net(cell, fault), SERIES)
    assert (found.cause, found.culprit) == (CAUSES[fault], "cell"), found


@pytest.mark.parametrize("cell", ["joined", "apart", "called"])
@pytest.mark.parametrize("takes", ["all", "last"])
def test_ways_to_write_a_cell(cell: str, takes: str) -> None:
    fault = "start" if cell == "called" else "unsquashed"
    found = diagnose_pair(Net(cell, takes=takes), Net(cell, fault, takes), SERIES)
    assert (found.cause, found.operation) == (CAUSES[fault], "lstm"), found


@pytest.mark.parametrize("cell", CELLS)
def test_a_fault_like_no_variant_has_no_cause(cell: str) -> None:
    found = diagnose_pair(Net(cell), Net(cell, "doubled"), SERIES)
    assert found.culprit is not None
    assert found.cause is None, found


def of_jax(function, params):
    from pytest_fwcompare.backends.jax import JaxBackend

    return JaxBackend().adopt(
        (function, params), dtype="float32", device="cpu", mode="eager", own=True
    )


def of_torch(model):
    from pytest_fwcompare.backends.torch import TorchBackend

    return TorchBackend().adopt(
        model.eval(), dtype="float32", device="cpu", mode="eager", own=True
    )


def diagnose_sides(reference, port):
    """Diagnosis of two sides with the same weights."""
    from pytest_fwcompare.backends.base import Argument
    from pytest_fwcompare.diagnose import diagnose

    passes = []
    for side in (reference, port):
        made = side.forward(
            [Argument("x", SERIES.astype("float32"))], precision="double", record=True
        )
        made.backward({n: np.ones(v.shape) for n, v in made.outputs.items()})
        passes.append(made)
    return diagnose(
        passes[0].recorded(),
        passes[1].recorded(),
        reference_parameters=reference.read(),
        reference_outputs=passes[0].outputs,
        port_outputs=passes[1].outputs,
    )


def scanned(model, limit=None, peep=0.0):
    """The LSTM net as a loop of JAX's, with torch's weights; its cell state limited."""
    jax = pytest.importorskip("jax")
    numpy = jax.numpy

    def function(p, x):
        x = x @ p["stem.weight"].T + p["stem.bias"]

        def step(states, row):
            h, c = states
            gates = row @ p["cell.x.weight"].T + p["cell.x.bias"] + h @ p["cell.h.weight"].T
            i, f, g, o = numpy.split(gates, 4, -1)
            i, f, o = (jax.nn.sigmoid(a + peep * c) for a in (i, f, o))
            c = f * c + i * numpy.tanh(g)
            c = c if limit is None else numpy.clip(c, -limit, limit)
            h = o * numpy.tanh(c)
            return (h, c), h

        zero = numpy.zeros((len(x), UNITS), x.dtype)
        (_, c), states = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
        return states.swapaxes(0, 1) @ p["head.weight"].T + p["head.bias"], c

    params = {n: numpy.asarray(v.detach().numpy()) for n, v in model.state_dict().items()}
    return of_jax(function, params)


def seeded(fault=""):
    torch.manual_seed(4)
    return Net("lstm", fault)


def test_a_loop_of_jax_as_port_and_as_reference() -> None:
    plain = seeded()
    found = diagnose_sides(of_torch(seeded()), scanned(plain, limit=0.2))
    assert (found.cause, found.culprit) == ("clipping", "cell")
    assert "the cell state clipped to 0.2" in found.evidence[0]
    found = diagnose_sides(scanned(plain), of_torch(seeded("unsquashed")))
    assert (found.cause, found.operation) == ("cell-variant", "lstm")
    found = diagnose_sides(scanned(plain, limit=0.2), of_torch(seeded()))
    assert found.cause == "clipping", found
    found = diagnose_sides(of_torch(seeded()), scanned(plain, peep=0.3))
    assert found.cause is None, found
