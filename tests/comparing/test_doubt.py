"""Whether gradients are the derivatives of the outputs, and what is told if they are not."""

from __future__ import annotations

import pytest

from pytest_fwcompare import TensorSpec, compare
from pytest_fwcompare.comparing import diagnosis

torch = pytest.importorskip("torch")

from comparing.faulty_models import (  # noqa: E402
    ACT,
    NORM,
    WORDS,
    Reference,
    jax_port,
    places,
    reference,
)


class Half(torch.nn.Module):
    """Hands its input on, and half of the gradient back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + 0.5 * x.detach()


def torch_port(*, epsilon: float = 1e-5, halved: bool = False) -> Reference:
    torch.manual_seed(0)
    made = Reference()
    made.norm.eps = epsilon
    if halved:
        made.act = torch.nn.Sequential(made.act, Half())
    return made


@pytest.fixture
def doubts(monkeypatch):
    """What was answered when somebody asked."""
    answers, ask = [], diagnosis.gradients_in_doubt

    def asked(*arguments, **options):
        answers.append(ask(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(diagnosis, "gradients_in_doubt", asked)
    return answers


@pytest.mark.parametrize("weights", ["auto", "given"])
@pytest.mark.parametrize("halved", [False, True])
def test_gradients_are_in_doubt_where_they_are_no_derivatives(doubts, halved, weights):
    """`weights="given"` moves nothing but the inputs."""
    options = {} if weights == "auto" else {"weights": "given"}
    found = compare(
        reference,
        lambda: torch_port(epsilon=1e-2, halved=halved),
        inputs=WORDS,
        examples=4,
        **options,
    )
    assert (found.culprit, found.cause) == NORM
    assert set(doubts) == {halved}
    further = [("", "gradient-path")] if halved else []
    assert places(found)[1:] == further


def test_nobody_asks_where_no_gradients_were_compared(doubts):
    found = compare(
        reference,
        lambda: torch_port(epsilon=1e-2, halved=True),
        inputs=WORDS,
        examples=4,
        checks=("forward",),
    )
    assert places(found) == [NORM]
    assert not any(doubts)


def test_whole_numbers_stay_as_they_are(doubts):
    class Words(torch.nn.Module):
        def __init__(self, act, kept=1.0) -> None:
            super().__init__()
            self.table, self.out = torch.nn.Embedding(9, 6), torch.nn.Linear(6, 3)
            self.act, self.kept = act, kept

        def forward(self, tokens):
            x = self.act(self.table(tokens))
            return self.out(self.kept * x + (1 - self.kept) * x.detach())

    tokens = {"tokens": TensorSpec(("batch", 4), dtype="int64", high=9)}

    def judged(kept):
        torch.manual_seed(0)
        made = Words(torch.nn.Sigmoid(), kept)
        torch.manual_seed(0)
        return compare(lambda: Words(torch.nn.Tanh()), lambda: made, inputs=tokens, examples=4)

    assert places(judged(1.0)) == [("act", "activation-variant")]
    assert places(judged(0.5))[1:] == [("", "gradient-path")]
    assert doubts == [False, False, True, True] or doubts == [False, True]


def test_a_jax_port_with_a_forward_fault_and_a_stopped_gradient():
    import equinox as eqx
    import jax

    class Stopping(eqx.Module):
        """A layer whose result is a constant to whatever comes before it."""

        layer: eqx.nn.Linear

        def __call__(self, x):
            return self.layer(jax.lax.stop_gradient(x))

    def port():
        made = jax_port(epsilon=1e-3, approximate=True)
        return eqx.tree_at(lambda m: m.mid, made, Stopping(made.mid))

    found = compare(reference, port, inputs=WORDS, examples=6)
    assert sorted(places(found)[:2]) == sorted([NORM, ACT])
    (other,) = found.further[1:]
    assert (other.between, other.cause) == (("act", "mid"), "gradient-path")
    assert "the gradient that linear of mid sends back stopped" in other.evidence[0]
    said = " ".join(found.summary().split())
    assert "code between act and mid of the torch reference" in said
    assert "gradient-path: with the gradient that linear of mid sends back stopped" in said
