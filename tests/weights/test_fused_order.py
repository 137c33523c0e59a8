"""What one side keeps in one kernel and the other in two layers: any order is a layout."""

from __future__ import annotations

import itertools

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.weights.frontier import says_its_order

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
nn = torch.nn


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)


class Gated(nn.Module):
    """A gated layer of two projections."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 12), nn.Linear(8, 12)
        self.down_proj = nn.Linear(12, 8)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class KOneKernel(keras.Model):
    """The same with one kernel, its halves in an order or in turn; `act` may be a wrong one.

    The K of its name is a word of every path, and says nothing of a key.
    """

    def __init__(self, gate_first=True, in_turn=False, act="silu"):
        super().__init__()
        self.wi, self.wo = keras.layers.Dense(24, name="wi"), keras.layers.Dense(8, name="wo")
        self.gate_first, self.in_turn = gate_first, in_turn
        self.act = keras.activations.get(act)

    def call(self, x):
        y = self.wi(x)
        one, other = (y[..., ::2], y[..., 1::2]) if self.in_turn else keras.ops.split(y, 2, -1)
        gate, up = (one, other) if self.gate_first else (other, one)
        return self.wo(self.act(gate) * up)


ROWS = {"x": fwc.TensorSpec((3, 8))}
ORDERS = list(itertools.product((True, False), repeat=2))


@pytest.mark.parametrize(("gate_first", "in_turn"), ORDERS)
@pytest.mark.parametrize("forwards", [True, False])
def test_a_gate_and_what_it_gates_in_one_kernel(gate_first, in_turn, forwards):
    sides = Gated(), KOneKernel(gate_first, in_turn)
    found = fwc.compare(*sides[:: 1 if forwards else -1], inputs=ROWS, examples=2, explain=False)
    assert found.passed, found.summary()
    assert all(row.port and row.references for row in found.weights)


@pytest.mark.parametrize(("gate_first", "in_turn"), ORDERS)
def test_no_order_makes_a_wrong_activation_right(gate_first, in_turn):
    port = KOneKernel(gate_first, in_turn, act="gelu")
    found = fwc.compare(Gated(), port, inputs=ROWS, examples=2, explain=False)
    assert found.verdict == "semantic", found.summary()


class Heads(nn.Module):
    """Two heads of a trunk."""

    def __init__(self):
        super().__init__()
        self.trunk, self.scores, self.boxes = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x):
        y = torch.tanh(self.trunk(x))
        return self.scores(y).softmax(-1), self.boxes(y)


class OneHead(keras.Model):
    """Both heads in one layer that is split; `wrong` leaves the softmax out."""

    def __init__(self, boxes_first, wrong=False):
        super().__init__()
        self.body, self.both = keras.layers.Dense(6), keras.layers.Dense(5)
        self.boxes_first, self.wrong = boxes_first, wrong

    def call(self, x):
        y = self.both(keras.ops.tanh(self.body(x)))
        scores, boxes = (y[..., 2:], y[..., :2]) if self.boxes_first else (y[..., :3], y[..., 3:])
        return scores if self.wrong else keras.ops.softmax(scores, -1), boxes


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("boxes_first", [False, True])
def test_two_heads_in_one_layer(boxes_first, wrong):
    port = OneHead(boxes_first, wrong)
    found = fwc.compare(Heads(), port, inputs=ROWS, examples=2, explain=False)
    assert found.verdict == ("semantic" if wrong else "equivalent"), found.summary()


class Branches(nn.Module):
    """Two convolutions of one image."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.close = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.close(torch.cat([self.left(x).relu(), self.right(x).tanh()], 1))


class OneStem(keras.Model):
    """The same as one convolution that is split; `wrong` takes another activation."""

    def __init__(self, right_first, wrong=False):
        super().__init__()
        self.stem = keras.layers.Conv2D(8, 3, padding="same")
        self.out = keras.layers.Conv2D(4, 1)
        self.right_first, self.wrong = right_first, wrong

    def call(self, x):
        y, ops = self.stem(x), keras.ops
        left, right = (y[..., 3:], y[..., :3]) if self.right_first else (y[..., :5], y[..., 5:])
        right = ops.sigmoid(right) if self.wrong else ops.tanh(right)
        return self.out(ops.concatenate([ops.relu(left), right], -1))


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("right_first", [False, True])
def test_two_convolutions_in_one(right_first, wrong):
    images = {"x": fwc.TensorSpec((2, 4, 6, 6), axes="NCHW", port_axes="NHWC")}
    port = OneStem(right_first, wrong)
    found = fwc.compare(Branches(), port, inputs=images, examples=2, explain=False)
    assert found.verdict == ("semantic" if wrong else "equivalent"), found.summary()


@pytest.mark.parametrize(
    ("path", "told"), [("att/kv", True), ("q_k", True), ("k_net/wi", False), ("packed", False)]
)
def test_a_name_that_says_what_a_layer_holds(path, told):
    assert says_its_order(path) is told


class KGated(keras.Model):
    """Two projections in Keras."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = keras.layers.Dense(12, name="gate"), keras.layers.Dense(12, name="up")
        self.down = keras.layers.Dense(8, name="down")

    def call(self, x):
        return self.down(keras.ops.silu(self.gate(x)) * self.up(x))


class Fused(nn.Module):
    """One kernel in torch."""

    def __init__(self, in_turn):
        super().__init__()
        self.fc1, self.fc2, self.in_turn = nn.Linear(8, 24), nn.Linear(12, 8), in_turn

    def forward(self, x):
        y = self.fc1(x)
        up, gate = (y[..., ::2], y[..., 1::2]) if self.in_turn else y.chunk(2, -1)
        return self.fc2(nn.functional.silu(gate) * up)


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_part_that_seems_found_already_changes_its_place_too(in_turn):
    inputs = {"x": fwc.TensorSpec((3, 5, 8))}
    found = fwc.compare(KGated(), Fused(in_turn), inputs=inputs, examples=2, explain=False)
    assert found.passed, found.summary()
