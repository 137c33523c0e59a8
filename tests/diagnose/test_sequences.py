"""What is done along time: running sums, the step that is taken, shifts, directions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

WIDTH, UNITS = 6, 4
RNG = np.random.default_rng(11)
SERIES = RNG.normal(size=(3, 5, WIDTH))
LENGTHS = np.array([5, 2, 4])


class Net(nn.Module):
    """A linear layer, something along time, another linear layer."""

    def __init__(self, along, last=WIDTH):
        super().__init__()
        self.along, self.stem, self.head = along, nn.Linear(WIDTH, WIDTH), nn.Linear(last, 3)

    def forward(self, x, *more):
        return torch.tanh(self.head(self.along(torch.tanh(self.stem(x)), *more)))


def last_valid(y, lengths):
    return y[torch.arange(len(y)), lengths.long() - 1]


def reverse_sum(y):
    return y.flip(1).cumsum(1).flip(1)


PAIRS = {
    "exclusive": (lambda y: y.cumsum(1), lambda y: y.cumsum(1) - y, "reduction"),
    "inclusive": (lambda y: y.cumsum(1), reverse_sum, "reduction"),
    "other axis": (lambda y: y.cumsum(1), lambda y: y.cumsum(2), "reduction"),
    "first for last": (lambda y: y[:, -1], lambda y: y[:, 0], "position"),
    "last for first": (lambda y: y[:, 0], lambda y: y[:, -1], "position"),
    "shift": (
        lambda y: F.pad(y[:, :-1], (0, 0, 1, 0)),
        lambda y: F.pad(y[:, 1:], (0, 0, 1, 0)),
        "position",
    ),
    "one off": (lambda y: y, lambda y: F.pad(y[:, :-1], (0, 0, 1, 0)), "position"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_done_along_time(name: str) -> None:
    reference, port, cause = PAIRS[name]
    found = diagnose_pair(Net(reference), Net(port), SERIES)
    assert found.cause == cause, found


def test_the_last_step_of_padded_series() -> None:
    def last(y, lengths):
        return y[:, -1] + 0.0 * lengths[:, None]

    lengths = LENGTHS.astype(np.float32)
    found = diagnose_pair(Net(last_valid), Net(last), SERIES, lengths)
    assert found.cause == "mask", found
    found = diagnose_pair(Net(last), Net(last_valid), SERIES, lengths)
    assert found.cause == "mask", found


LOOK_ALIKES = {
    "halved sum": (lambda y: y.cumsum(1), lambda y: y.cumsum(1) - 0.5 * y),
    "mixed step": (lambda y: y[:, -1], lambda y: 0.5 * y[:, 0] + 0.5 * y[:, 1]),
    "step of each": (lambda y: y[:, -1], lambda y: y[torch.arange(len(y)), [1, 2, 3]]),
    "one off in a part": (
        lambda y: y,
        lambda y: torch.cat([F.pad(y[:, :-1, :2], (0, 0, 1, 0)), y[..., 2:]], -1),
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_looks_so_has_no_such_cause(name: str) -> None:
    reference, port = LOOK_ALIKES[name]
    found = diagnose_pair(Net(reference), Net(port), SERIES)
    assert found.culprit is not None
    assert found.cause is None, found


class Both(nn.Module):
    """A layer of two directions and what is taken of it."""

    def __init__(self, take, kind=nn.LSTM, first=True):
        super().__init__()
        self.layer = kind(WIDTH, UNITS, batch_first=first, bidirectional=True)
        self.take = take

    def forward(self, x):
        sequence, state = self.layer(x)
        return self.take(sequence, state[0] if isinstance(state, tuple) else state)


TAKEN = {
    "states": lambda sequence, state: torch.cat([state[0], state[1]], -1),
    "last": lambda sequence, state: sequence[:, -1],
    "mixed": lambda sequence, state: torch.cat([state[0], sequence[:, 1, UNITS:]], -1),
}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    ("reference", "port", "cause"),
    [
        ("states", "last", "initial-state"),
        ("last", "states", "initial-state"),
        ("states", "mixed", None),
        ("last", "mixed", None),
    ],
)
def test_last_states_of_two_directions(kind, reference: str, port: str, cause) -> None:
    nets = [Net(Both(TAKEN[one], kind), 2 * UNITS) for one in (reference, port)]
    found = diagnose_pair(*nets, SERIES)
    assert found.cause == cause, found


def test_the_batch_read_as_time() -> None:
    def take(sequence, state):
        return sequence

    nets = [Net(Both(take, nn.GRU, first), 2 * UNITS) for first in (True, False)]
    found = diagnose_pair(*nets, SERIES)
    assert (found.cause, found.culprit) == ("flatten-order", "along.layer"), found


class Experts(nn.Module):
    """Two of four shares, divided by their sum or not."""

    def __init__(self, anew):
        super().__init__()
        self.router, self.anew = nn.Linear(WIDTH, 4), anew

    def forward(self, y):
        chosen, place = self.router(y).softmax(-1).topk(2, -1)
        if self.anew:
            chosen = chosen / (chosen.sum(-1, keepdim=True) if self.anew == 1 else 0.9)
        shares = torch.zeros(*y.shape[:-1], 4, dtype=y.dtype).scatter(-1, place, chosen)
        return torch.cat([shares, y[..., 4:]], -1) * y


@pytest.mark.parametrize("anew", [0, 1])
def test_shares_that_are_weighed_anew(anew: int) -> None:
    found = diagnose_pair(Net(Experts(anew)), Net(Experts(1 - anew)), SERIES)
    assert (found.cause, found.culprit) == ("reduction", "along"), found


def test_shares_divided_by_something_else() -> None:
    found = diagnose_pair(Net(Experts(1)), Net(Experts(2)), SERIES)
    assert found.cause != "reduction", found
