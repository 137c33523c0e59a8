"""Several layers in one array of the other side: tables, experts; and what is fused otherwise."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights.stacks import fused_unknown
from pytest_fwcompare.weights.transforms import Slice

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SIZES, STARTS = (5, 7, 9), (0, 5, 12)


class Tables(nn.Module):
    """Three tables of equal size, or one array; `order` is the fault: which is read for which."""

    def __init__(self, together, order=(0, 1, 2)):
        super().__init__()
        self.order, self.head = order, nn.Linear(12, 2)
        if together:
            self.tables = nn.Parameter(torch.randn(3, 10, 4))
        else:
            self.tables = nn.ModuleList(nn.Embedding(10, 4) for _ in range(3))

    def table(self, k, index):
        tables = self.tables
        return tables[k](index) if isinstance(tables, nn.ModuleList) else tables[k][index]

    def forward(self, index):
        parts = [self.table(k, index[:, i]) for i, k in enumerate(self.order)]
        return self.head(torch.cat(parts, -1))


class Joined(nn.Module):
    """Tables of several sizes end to end in one array, or each by itself."""

    def __init__(self, together):
        super().__init__()
        self.head = nn.Linear(9, 2)
        if together:
            self.table = nn.Parameter(torch.randn(sum(SIZES), 3))
        else:
            self.tables = nn.ModuleList(nn.Embedding(size, 3) for size in SIZES)

    def forward(self, index):
        if hasattr(self, "table"):
            parts = [self.table[index[:, k] + start] for k, start in enumerate(STARTS)]
        else:
            parts = [table(index[:, k]) for k, table in enumerate(self.tables)]
        return self.head(torch.cat(parts, -1))


class Experts(nn.Module):
    """A mixture of experts, each by itself or all in four arrays."""

    def __init__(self, together, active=torch.tanh):
        super().__init__()
        self.together, self.active, self.gate = together, active, nn.Linear(6, 4)
        if together:
            self.w1, self.b1 = (
                nn.Parameter(torch.randn(4, 6, 10)),
                nn.Parameter(torch.randn(4, 10)),
            )
            self.w2 = nn.Parameter(torch.randn(4, 10, 6))
        else:
            self.into = nn.ModuleList(nn.Linear(6, 10) for _ in range(4))
            self.out = nn.ModuleList(nn.Linear(10, 6, bias=False) for _ in range(4))

    def expert(self, k, x):
        if self.together:
            return self.active(x @ self.w1[k] + self.b1[k]) @ self.w2[k]
        return self.out[k](self.active(self.into[k](x)))

    def forward(self, x):
        share = self.gate(x).softmax(-1)
        return sum(share[:, k : k + 1] * self.expert(k, x) for k in range(4))


class Cell(nn.Module):
    """An LSTM's steps with one odd array for input and state together, or torch's two."""

    def __init__(self, together):
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Linear(6, 30), nn.Linear(30, 6)), nn.Linear(5, 3)
        if together:
            self.kernel, self.bias = (
                nn.Parameter(torch.randn(22, 10)),
                nn.Parameter(torch.zeros(20)),
            )
        else:
            self.cell = nn.LSTMCell(6, 5)

    def step(self, x, h, c):
        if not hasattr(self, "kernel"):
            return self.cell(x, (h, c))
        i, f, g, o = (torch.cat([x, h], -1) @ self.kernel.view(11, 20) + self.bias).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(self, x):
        x = self.stem(x)
        h = c = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for t in range(x.shape[1]):
            h, c = self.step(x[:, t], h, c)
        return self.head(h)


INDEX = {"index": fwc.TensorSpec(("batch", 3), dtype="int64", low=0, high=5)}
FEATURES = {"x": fwc.TensorSpec(("batch", 6))}
STEPS = {"x": fwc.TensorSpec(("batch", 3, 6))}


def judged(reference, port, inputs):
    return fwc.compare(reference, port, inputs=inputs, examples=3, explain=False)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("net", "inputs"), [(Tables, INDEX), (Joined, INDEX), (Experts, FEATURES)]
)
def test_one_array_holds_several_layers(net, inputs, together):
    made = judged(net(together), net(not together), inputs)
    assert made.verdict == "equivalent", made.summary()
    assert all(row.port and row.references for row in made.weights)


@pytest.mark.parametrize("together", [True, False])
def test_tables_read_in_another_order_are_another_function(together):
    made = judged(Tables(together), Tables(not together, (1, 0, 2)), INDEX)
    assert made.verdict == "semantic"


@pytest.mark.parametrize("together", [True, False])
def test_a_fault_beside_them_is_judged_by_the_reading_that_explains_more(together):
    made = judged(Experts(together), Experts(not together, torch.sigmoid), FEATURES)
    assert made.verdict == "semantic"
    (row,) = (r for r in made.weights if r.port in ("w1", "into.0.weight"))
    assert row.references[0] in ("w1", "into.0.weight")


@pytest.mark.parametrize(("together", "role"), [(True, "reference"), (False, "port")])
def test_what_is_fused_in_an_unknown_way_is_refused_and_not_judged(together, role):
    with pytest.raises(MappingError) as caught:
        judged(Cell(together), Cell(not together), STEPS)
    text = str(caught.value)
    assert text.startswith(
        f"the {role}'s kernel (22, 10) has as many values as cell.weight_ih (20, 6), "
        "cell.weight_hh (20, 5) of the other side together: they may be fused in a way that is "
        "not known"
    )
    assert "Say it with weights=" in text


def parameter(name, *shape):
    return Parameter(name, shape, "float32", True, role=name)


def test_other_sizes_are_no_fusion():
    whole, parts = parameter("a", 4, 6), [parameter("b", 4, 3), parameter("c", 4, 2)]
    assert fused_unknown([whole], parts) == ""
    assert fused_unknown([whole], [*parts, parameter("d", 4)]) == "", "a bias is no kernel"
    assert "a (4, 6) has as many values as b (4, 3), e (4, 3)" in fused_unknown(
        [whole], [parts[0], parameter("e", 4, 3)]
    )


def test_a_slice_and_its_adjoint():
    made, x = Slice(1, 3, 1), np.arange(12.0).reshape(3, 4)
    assert np.array_equal(made.apply(x), x[:, 1:3])
    gradient = np.ones((3, 2))
    (back,) = made.adjoint(gradient, x.shape)
    assert back.sum() == np.sum(made.apply(back)) == 6.0
