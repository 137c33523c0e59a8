"""Observing both sides: the jitter is drawn where it could change a verdict, and only there."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare.running.observing import Observer  # noqa: E402

EXAMPLES = 6


@pytest.fixture
def drawn(monkeypatch):
    """Numbers of draws, one entry each time that the jitter is drawn."""
    calls = []
    original = Observer.jitter

    def counted(self, point, still, draws, training):
        calls.append(draws)
        return original(self, point, still, draws, training)

    monkeypatch.setattr(Observer, "jitter", counted)
    return calls


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))


def judged(port, **options):
    return fwc.compare(
        model(),
        port,
        inputs={"x": fwc.TensorSpec((3, 5))},
        examples=EXAMPLES,
        explain=False,
        **options,
    )


def test_a_right_port_needs_the_jitter_of_one_example(drawn):
    found = judged(model())
    assert found.verdict == "equivalent"
    assert drawn == [1]
    jitters = {row.name: row.jitter for row in found.tensors}
    assert 1e-9 < jitters["output output"] < 1e-5
    # The last bias is not multiplied by anything that could move.
    assert jitters["gradient of 3.bias"] == 0


def test_a_step_of_training_has_a_jitter_of_its_own(drawn):
    found = judged(model(), checks=("forward", "backward", "training"))
    assert found.verdict == "equivalent"
    assert drawn == [1, 1]


def test_what_rounding_may_explain_is_held_against_a_jitter_on_every_example(drawn):
    """Far below float32, so that only the jitter excuses it."""
    port = copy.deepcopy(model())
    port[1].eps *= 1 + 1e-5
    found = judged(port)
    assert found.verdict == "equivalent"
    assert len(drawn) > 1


def test_a_fault_is_found_with_the_jitter_that_it_exceeds(drawn):
    port = copy.deepcopy(model())
    port[1].eps = 1e-3
    found = judged(port)
    assert found.verdict == "semantic"
    assert len(drawn) > 1
    assert any(row.gap > row.jitter > 0 for row in found.tensors if row.verdict == "semantic")


def test_what_one_mapping_wrote_does_not_speak_for_the_next(monkeypatch):
    """A mapping that leaves a parameter alone runs with what the port came with."""
    from pytest_fwcompare.weights import automatic
    from pytest_fwcompare.weights.mapping import Link, Mapping
    from pytest_fwcompare.weights.transforms import Identity

    settled = []

    def search(reference, port, *, evidence, **rest):
        whole = Mapping(tuple(Link(p.name, (p.name,), Identity(), "") for p in reference))
        part = Mapping(whole.links[:-1], {}, {whole.links[-1].port: "left alone"})
        settled.extend(evidence(mapping).settled for mapping in (part, whole, part))
        return part

    monkeypatch.setattr(automatic, "automatic_mapping", search)
    port = model()
    with torch.no_grad():
        port[3].bias += 1.0
    before = port[3].bias.clone()
    found = judged(port)
    assert settled == [False, True, False]
    assert found.verdict == "semantic"
    row = next(row for row in found.tensors if row.name == "output output")
    # Both precisions of the port have its own value: noise is rounding alone.
    assert row.port_noise < 1e-5
    assert torch.equal(port[3].bias, before)
