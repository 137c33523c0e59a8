"""A port with several faults: each is looked for with those before it repaired."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare import compare

torch = pytest.importorskip("torch")

from comparing.faulty_models import (  # noqa: E402
    ACT,
    NORM,
    SOFTMAX,
    WORDS,
    Reference,
    jax_port,
    places,
    reference,
)


def found(**faults):
    return compare(
        reference, lambda: jax_port(**faults), inputs=WORDS, examples=6, checks=("forward",)
    )


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        ({"epsilon": 1e-3}, [NORM]),
        ({"epsilon": 1e-3, "approximate": True}, [NORM, ACT]),
        ({"approximate": True, "axis": 1}, [ACT, SOFTMAX]),
        ({"epsilon": 1e-3, "approximate": True, "axis": 1}, [NORM, ACT, SOFTMAX]),
    ],
)
def test_every_fault_is_found_and_no_other(faults, wanted):
    comparison = found(**faults)
    assert sorted(places(comparison)) == sorted(wanted)
    assert all(other.evidence for other in comparison.further)


def test_a_right_port_has_none():
    comparison = found()
    assert comparison.verdict == "equivalent"
    assert comparison.further == ()
    assert "also" not in comparison.summary()


def test_the_message_names_all_of_them_with_their_proofs():
    comparison = found(epsilon=1e-3, approximate=True)
    said = " ".join(comparison.summary().split())
    assert "also act of the torch reference" in said
    proof = said[said.index("activation-variant: with") :]
    assert "the difference at gelu of act falls from" in proof


def test_what_follows_an_unproved_fault_is_not_called_another():
    """Everything behind a fault that nothing repairs differs, and is no difference of its own."""

    class Odd(Reference):
        def forward(self, x):
            hidden = self.into(x) + 0.1 * torch.sin(3 * self.into(x)) ** 3
            main = self.out(torch.tanh(self.mid(self.act(self.norm(hidden)))))
            return main.mean(1) + torch.softmax(self.side(x), -1).mean(1)

    def port() -> Odd:
        torch.manual_seed(1)
        return Odd()

    comparison = compare(reference, port, inputs=WORDS, examples=6, checks=("forward",))
    assert comparison.cause is None
    assert comparison.further == ()
    assert np.isfinite(comparison.gap)


@pytest.mark.parametrize("bend", [torch.tanh, torch.sigmoid])
def test_a_fault_behind_an_unproved_one_is_found(bend):
    """No repair gives the port's value, so the port's own is taken, and the search goes on."""

    class Odd(Reference):
        def forward(self, x):
            hidden = self.into(x) + 0.1 * torch.sin(3 * self.into(x)) ** 3
            main = self.out(bend(self.mid(self.act(self.norm(hidden)))))
            return main.mean(1) + torch.softmax(self.side(x), -1).mean(1)

    def port() -> Odd:
        torch.manual_seed(1)
        return Odd()

    comparison = compare(reference, port, inputs=WORDS, examples=6, checks=("forward",))
    assert (comparison.culprit, comparison.cause) == ("norm", None)
    further = [("", "activation-variant")] if bend is torch.sigmoid else []
    assert [(one.culprit, one.cause) for one in comparison.further] == further
