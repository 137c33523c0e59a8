"""Faults of gradients and running statistics beside a fault of the forward pass."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402

X = np.random.default_rng(1).normal(size=(4, 6))
IMAGES = np.random.default_rng(2).normal(size=(2, 3, 6, 5))
TOKENS = np.array([[0, 2, 3], [1, 0, 2]])


def scaled(x, factor):
    """The value as it is; its gradient times the factor."""
    return x if factor == 1.0 else factor * x + (1 - factor) * x.detach()


class Skip(nn.Module):
    """f(x) + skip(x) after a stem; forward faults and factors on the gradients."""

    def __init__(self, *, eps=1e-5, act=torch.tanh, branch=1.0, skip=1.0, both=1.0):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 6), nn.LayerNorm(6, eps=eps)
        self.body, self.skip, self.head = nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 3)
        self.act, self.factors = act, (branch, skip, both)

    def forward(self, x):
        branch, skip, both = self.factors
        x = scaled(self.stem(x), both)
        y = self.body(scaled(self.norm(x), branch))
        return self.head(self.act(y + scaled(self.skip(x), skip)))


EPSILON, SIGMOID = {"eps": 1e-2}, {"act": torch.sigmoid}
NORM, ACT = ("norm", "norm-epsilon"), ("", "activation-variant")
BRANCH, SKIP = ("", "gradient-path"), ("skip", "gradient-path")


def places(found):
    return [(one.culprit, one.cause) for one in (found, *found.others)]


@pytest.mark.parametrize(
    "forward", [(EPSILON, [NORM]), (SIGMOID, [ACT]), ({**EPSILON, **SIGMOID}, [NORM, ACT])]
)
@pytest.mark.parametrize(
    ("backward", "place", "words"),
    [
        ({"branch": 0.5}, BRANCH, "linear of body sends back multiplied by 0.5"),
        ({"branch": 0.0}, BRANCH, "linear of body sends back stopped"),
        ({"skip": 0.0}, SKIP, "add of the root sends back stopped"),
        ({"both": 0.25}, BRANCH, "every use sends back multiplied by 0.25"),
    ],
)
def test_a_gradient_is_told_beside_a_forward_fault(forward, backward, place, words):
    faults, wanted = forward
    found = diagnose_pair(Skip(), Skip(**faults, **backward), X)
    assert places(found) == [*wanted, place]
    (proof,) = found.others[-1].evidence
    assert words in proof
    assert found.others[-1].backward
    before, after = (float(word) for word in proof.rpartition("falls from ")[2].split(" to "))
    assert before > 1e-2
    assert after < 5e-7


@pytest.mark.parametrize("faults", [EPSILON, SIGMOID, {**EPSILON, **SIGMOID}])
def test_gradients_that_part_because_of_a_forward_fault_are_right(faults):
    found = diagnose_pair(Skip(), Skip(**faults), X)
    assert not any(one.backward for one in (found, *found.others))


@pytest.mark.parametrize("factors", [{"branch": 0.5}, {"skip": 0.0}])
def test_a_reference_that_stops_gradients_itself_accuses_nobody(factors):
    """A straight-through estimator that both sides have is no derivative on either side."""
    found = diagnose_pair(Skip(**factors), Skip(**factors, **EPSILON), X)
    assert places(found) == [NORM]


def test_a_gradient_that_nothing_explains_has_its_place_and_no_cause():
    class Odd(Skip):
        def forward(self, x):
            x = self.stem(x)
            y = self.norm(x)
            odd = y.detach() + (y - y.detach()) * (1 + torch.sin(7 * y.detach()))
            return self.head(self.act(self.body(odd) + x))

    found = diagnose_pair(Skip(), Odd(**EPSILON), X)
    assert places(found) == [NORM, ("", None)]
    assert found.others[0].tried


def test_it_is_not_asked_where_the_gradients_are_the_derivatives_of_the_outputs():
    found = diagnose_pair(Skip(), Skip(**EPSILON, skip=0.0), X, gradients_in_doubt=lambda: False)
    assert places(found) == [NORM]


def test_a_port_that_uses_another_tensor_has_no_wrong_gradient():
    """The sum of the port takes another summand, whose gradient the reference knows nothing of."""

    class Other(Skip):
        def forward(self, x):
            y = self.body(self.norm(self.stem(x)))
            return self.head(self.act(y + x))

    found = diagnose_pair(Skip(), Other(), X)
    assert found.cause == "residual"
    assert not found.others


def test_statistics_held_constant_are_told_beside_an_activation():
    class Held(nn.LayerNorm):
        def forward(self, x):
            mean = x.mean(-1, keepdim=True).detach()
            spread = x.var(-1, keepdim=True, unbiased=False).detach()
            return (x - mean) / torch.sqrt(spread + self.eps) * self.weight + self.bias

    def chain(norm, act):
        return nn.Sequential(nn.Linear(6, 6), norm, act, nn.Linear(6, 3))

    found = diagnose_pair(chain(nn.LayerNorm(6), nn.GELU()), chain(Held(6), nn.SiLU()), X)
    assert places(found)[0] == ("2", "activation-variant")
    assert "statistics held constant" in found.others[0].evidence[0]


class Words(nn.Module):
    def __init__(self, padding=None, tied=True, act=torch.tanh):
        super().__init__()
        self.table = nn.Embedding(5, 6, padding_idx=padding)
        self.tied, self.act = tied, act

    def forward(self, tokens):
        weight = self.table.weight if self.tied else self.table.weight.detach()
        return nn.functional.linear(self.act(self.table(tokens)), weight)


@pytest.mark.parametrize(
    ("reference", "port", "words"),
    [
        (
            Words(0, False),
            Words(None, False, act=torch.sigmoid),
            "only row 0 of table.weight differs",
        ),
        (Words(), Words(tied=False, act=torch.sigmoid), "linear of the root"),
    ],
)
def test_the_gradient_of_a_table_is_told_beside_an_activation(reference, port, words):
    found = diagnose_pair(reference, port, TOKENS)
    assert places(found) == [ACT, ("table", "embedding")]
    assert words in found.others[0].evidence[0]


class Stopping(Words):
    """Nothing goes back to a padding token, which is stopped behind the table."""

    def forward(self, tokens):
        found = self.table(tokens)
        found = torch.where((tokens == 0)[..., None], found.detach(), found)
        return nn.functional.linear(self.act(found), self.table.weight.detach())


def test_where_a_padding_row_is_stopped_is_all_one():
    bent = {"act": torch.sigmoid}
    found = diagnose_pair(Words(0, False), Stopping(None, False, **bent), TOKENS)
    assert places(found) == [ACT]
    found = diagnose_pair(Stopping(None, False), Words(0, False, **bent), TOKENS)
    assert places(found) == [ACT]


class Pictures(nn.Module):
    """Convolution, pool and norm: operations whose adjoints nobody wrote down."""

    def __init__(self, *, slope=0.01, pooled=1.0, scale=1.0):
        super().__init__()
        self.first, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)
        self.norm, self.second = nn.GroupNorm(2, 4), nn.Conv2d(4, 5, 2)
        self.slope, self.pooled, self.scale = slope, pooled, scale

    def forward(self, x):
        x = self.pool(torch.sin(self.first(x)))
        weight = scaled(self.norm.weight, self.scale)
        normed = nn.functional.group_norm(scaled(x, self.pooled), 2, weight, self.norm.bias)
        bent = nn.functional.leaky_relu(self.second(normed), self.slope)
        return torch.softmax(bent.flatten(1), -1)


def test_a_gradient_behind_a_pool_is_told_beside_a_slope():
    found = diagnose_pair(Pictures(), Pictures(slope=0.2, pooled=0.5), IMAGES)
    assert found.cause == "activation-parameter"
    (other,) = found.others
    assert (other.culprit, other.cause) == ("", "gradient-path")
    assert "multiplied by 0.5" in other.evidence[0]


def test_the_gradient_of_a_parameter_alone_is_told_beside_a_slope():
    found = diagnose_pair(Pictures(), Pictures(slope=0.2, scale=0.25), IMAGES)
    assert found.cause == "activation-parameter"
    (other,) = found.others
    assert other.cause == "gradient-path"
    assert "the gradient of norm.weight is multiplied by 0.25 in the port" in other.evidence[0]
