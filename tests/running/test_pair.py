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


def pictures(slope=0.0):
    """A convolution and a norm in inference, with statistics that say something."""
    torch.manual_seed(4)
    made = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.LeakyReLU(slope), nn.Flatten(), nn.Linear(27, 4)
    )
    with torch.no_grad():
        made[1].running_mean.normal_()
        made[1].running_var.uniform_(0.5, 2.0)
    return made.eval()


def folded(slope=0.0):
    """The same, the norm made a part of the convolution before it, in float32."""
    made = pictures(slope)
    return nn.Sequential(
        torch.nn.utils.fusion.fuse_conv_bn_eval(made[0], made[1]), *made[2:]
    ).eval()


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "equivalent"), (1e-3, "semantic")])
def test_own_weights_that_were_rounded_on_their_way_are_no_difference(slope, verdict):
    reference = pictures()
    before = copy.deepcopy(reference.state_dict())
    found = fwc.compare(
        reference,
        folded(slope),
        inputs={"x": fwc.TensorSpec((2, 2, 4, 4))},
        examples=EXAMPLES,
        weights="given",
        explain=False,
    )
    assert found.verdict == verdict
    assert any(row.gap > 1e-9 for row in found.tensors)
    assert all(torch.equal(before[name], held) for name, held in reference.state_dict().items())


def test_a_side_with_its_own_weights_has_them_again_after_the_jitter(monkeypatch):
    from pytest_fwcompare.running.pair import Pair

    last, again = [], []
    run = Pair.run

    def watched(self, role, point, precision, **options):
        made = run(self, role, point, precision, **options)
        if role == "reference" and precision == "double":
            if point.weights is None:
                last[:] = point, made.outputs["output"]
            else:
                assert (made.outputs["output"] != last[1]).any()
                again.append(run(self, role, last[0], precision).outputs["output"] == last[1])
        return made

    monkeypatch.setattr(Pair, "run", watched)
    inputs = {"x": fwc.TensorSpec((2, 2, 4, 4))}
    fwc.compare(pictures(), pictures(), inputs=inputs, examples=3, weights="given", explain=False)
    assert again
    assert all(same.all() for same in again)
