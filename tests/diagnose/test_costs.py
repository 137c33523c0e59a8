"""What a diagnosis of a large network costs: counted, so that no clock is asked.

The limits are a little above what is needed; whole-model work that is done once more passes them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.comparing import conclusion, diagnosis
from pytest_fwcompare.diagnose import align
from pytest_fwcompare.diagnose.held import SMALL, Held, without_weights
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.running import arrays
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.supply import Source

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

LAYERS, FEATURES = 6, 8


class Block(nn.Module):
    """A layer as transformers have it, without attention."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, 16), nn.Linear(16, FEATURES)
        self.act, self.norm = nn.GELU(), nn.LayerNorm(FEATURES)
        self.stopped = False

    def forward(self, x):
        found = self.down(self.act(self.up(x)))
        return self.norm(x + (found.detach() if self.stopped else found))


def stack():
    return nn.Sequential(*(Block() for _ in range(LAYERS))).eval()


class Counted:
    """How often things were done while diagnosing."""

    def __init__(self, monkeypatch):
        self.counts, self.patch, self.sides = Counter(), monkeypatch, []
        monkeypatch.setattr(arrays, "LARGE", 0)  # a network of a few weights counts as large
        monkeypatch.setattr(arrays, "SMALL", 3)
        diagnose, made = conclusion.diagnose_finding, diagnosis.Sides

        def counting(*arguments):
            with monkeypatch.context() as patch:
                self._watched = patch
                self.count(Pair, "_pass", lambda *a: "passes")
                self.count(Source, "_draw", lambda source, name, seed: f"drawn {name}")
                self.count(arrays.Shelf, "__getitem__", lambda shelf, name: f"read {name}")
                self.count(align, "contents", lambda *a: "sorted")
                self.count(Operation, "compute", lambda *a: "computed")
                return diagnose(*arguments)

        def keeping(*arguments, **options):
            self.sides.append(made(*arguments, **options))
            return self.sides[-1]

        monkeypatch.setattr(conclusion, "diagnose_finding", counting)
        monkeypatch.setattr(diagnosis, "Sides", keeping)

    def count(self, owner, name, word):
        inner = getattr(owner, name)

        def method(*arguments, **options):
            self.counts[word(*arguments)] += 1
            return inner(*arguments, **options)

        self._watched.setattr(owner, name, method)

    def most(self, word):
        """The highest of the counts whose name begins so."""
        return max((n for name, n in self.counts.items() if name.startswith(word)), default=0)


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


def judged(plant):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        reference, port = stack(), stack()
    plant(port[3])
    return fwc.compare(
        reference, port, inputs={"x": fwc.TensorSpec((3, 5, FEATURES))}, examples=1, seed=2
    )


def plant_epsilon(block):
    block.norm.eps = 1e-2


def plant_activation(block):
    block.act.approximate = "tanh"


@pytest.mark.parametrize(
    ("plant", "place", "cause"),
    [(plant_epsilon, "3.norm", "norm-epsilon"), (plant_activation, "3.act", "activation-variant")],
)
def test_a_forward_fault_costs_four_passes_and_gradients_are_read_once(
    counted, plant, place, cause
):
    found = judged(plant)
    assert (found.culprit, found.cause) == (place, cause)
    counts, (sides,) = counted.counts, counted.sides
    # Both sides, and the port moved up and down: are its gradients its own derivatives?
    assert counts["passes"] == 4
    # To load each side, once for the search, once for each move and once for what it promises.
    assert counted.most("drawn") <= 6
    assert counted.most("read") <= 1
    records = len(sides.graph.records) + len(sides.port.records)
    assert records > 12 * LAYERS - 12
    assert counts["sorted"] <= 2.5 * records
    # Each operation once to be understood, those behind the culprit again with its repair.
    assert counts["computed"] <= 4 * len(sides.graph.records)


def test_a_stopped_gradient_reads_each_gradient_a_few_times(counted):
    def plant(block):
        block.stopped = True

    found = judged(plant)
    assert (found.culprit, found.cause) == ("3", "gradient-path")
    assert counted.counts["passes"] == 2
    assert counted.most("drawn") <= 3
    # On both sides: compared, then asked whether the difference is clear.
    assert 2 <= counted.most("read") <= 4


def test_no_record_of_the_port_keeps_a_large_weight(monkeypatch):
    from pytest_fwcompare.diagnose import held

    monkeypatch.setattr(held, "SMALL", 20)
    counted = Counted(monkeypatch)
    judged(plant_epsilon)
    (sides,) = counted.sides
    values = {id(record.value) for record in sides.port.records}
    kept = [a for r in sides.port.records for a in r.arguments if id(a) not in values]
    assert all(argument.size <= 20 for argument in kept)
    ours = [r for r in sides.graph.records if r.operation == "linear"]
    assert all(record.arguments[1].size == 16 * FEATURES for record in ours)


class Drawn(dict):
    """Weights that are made anew at every reading."""

    def __init__(self, *arguments, **values):
        super().__init__(*arguments, **values)
        self.reads = Counter()

    def __getitem__(self, name):
        self.reads[name] += 1
        return super().__getitem__(name).copy()


def test_weights_are_read_once_and_shared_with_the_records():
    big = np.random.default_rng(0).normal(size=(100, SMALL // 100 + 1))
    values = Drawn(big=big, small=np.ones(3), unused=big + 1)
    record = Recorded(0, "", "linear", np.ones(2), parameters=("big",), arguments=(big,))
    held = Held(values, [record])
    assert list(held) == ["big", "small", "unused"]
    assert "big" in held
    assert "other" not in held
    assert not values.reads  # asking for names makes no array
    assert all(held["big"] is big for _ in range(3))
    assert np.array_equal(held["small"], held["small"])
    assert values.reads == {"big": 1, "small": 1}
    # Large, and nowhere recorded: not kept.
    assert np.array_equal(held["unused"], held["unused"])
    assert values.reads["unused"] == 2
    with pytest.raises(KeyError):
        held["other"]


def test_a_weight_of_other_values_is_not_taken_for_the_recorded_one():
    big = np.random.default_rng(0).normal(size=(100, SMALL // 100 + 1))
    record = Recorded(0, "", "linear", np.ones(2), parameters=("big",), arguments=(big,))
    assert np.array_equal(Held({"big": big + 1}, [record])["big"], big + 1)


def test_only_large_weights_are_left_out():
    big, small = np.ones((SMALL, 2)), np.ones(4)
    made = Recorded(0, "", "relu", np.ones((SMALL, 3)))
    use = Recorded(1, "", "op", np.ones(2), parameters=("w",), arguments=(made.value, big, small))
    plain = Recorded(2, "", "op", np.ones(2), arguments=(big,))
    first, second, third = without_weights([made, use, plain])
    assert first is made
    assert third is plain
    assert [id(a) for a in second.arguments] == [id(made.value), id(small)]
    assert second.value is use.value


def test_products_are_computed_by_one_thread_and_the_users_setting_is_put_back(counted):
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

    if not threads():
        pytest.skip("NumPy has a BLAS whose threads nobody can count")
    inside = []
    inner = diagnosis.Sides

    def looking(*arguments, **options):
        inside.append(threads())
        return inner(*arguments, **options)

    counted.patch.setattr(diagnosis, "Sides", looking)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        judged(plant_epsilon)
        assert inside == [{1}]
        assert threads() == before
