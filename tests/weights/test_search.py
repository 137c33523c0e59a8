"""Which order pairs layers whose names mean nothing: that of definition or that of use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import Evidence, Mapping, automatic_mapping
from pytest_fwcompare.weights.automatic import Search, candidates
from pytest_fwcompare.weights.guess import Candidates
from pytest_fwcompare.weights.usage import InUse

from .trees import dense_keras, linear_torch, parameter

ANOTHER = "a forward pass uses them in another, and no value tells which is meant"


def reference() -> list[Parameter]:
    return [p for name in ("first", "second", "third") for p in linear_torch(name, 4, 4)]


def port(*names: str) -> list[Parameter]:
    return [p for name in names or ("uv", "kj", "pq") for p in dense_keras(name, 4, 4)]


def paired(
    evidence: Callable[[Mapping], Evidence],
    used: list[Parameter],
    siblings: tuple[tuple[str, ...], ...] = (),
    defined: list[Parameter] | None = None,
    framework: str = "keras",
) -> Mapping:
    return automatic_mapping(
        reference(),
        defined or port(),
        reference_framework="torch",
        port_framework=framework,
        evidence=evidence,
        in_use=lambda: InUse(reference(), used, siblings),
    )


def kernels(mapping: Mapping) -> dict[str, str]:
    """By layer of the port, the reference's layer."""
    return {
        link.port.split("/")[0]: link.sources[0].split(".")[0]
        for link in mapping.links
        if link.port.endswith("kernel")
    }


DEFINED = {"uv": "first", "kj": "second", "pq": "third"}
USED = {"pq": "first", "kj": "second", "uv": "third"}


def says_nothing(mapping: Mapping) -> Evidence:
    return Evidence(0.4, 0.3)


def test_evidence_that_says_nothing_leaves_the_order_of_definition() -> None:
    """Every plan of a port that is wrong early on leaves the same unexplained."""
    mapping = paired(says_nothing, port("pq", "kj", "uv"))
    assert kernels(mapping) == DEFINED
    assert [text for text in mapping.notices if ANOTHER in text]
    agreed = paired(says_nothing, port())
    assert kernels(agreed) == DEFINED
    assert not agreed.notices


@pytest.mark.parametrize("better", [Evidence(1.0, 1e-12), Evidence(0.6, 0.3), Evidence(0.4, 0.01)])
def test_evidence_that_favours_the_order_of_use_is_followed(better: Evidence) -> None:
    def favours(mapping: Mapping) -> Evidence:
        return better if kernels(mapping) == USED else Evidence(0.4, 0.3)

    mapping = paired(favours, port("pq", "kj", "uv"))
    assert kernels(mapping) == USED
    assert "order in which a forward pass uses them" in mapping.notices[0]


@pytest.mark.parametrize(("share", "followed"), [(0.6, False), (0.9, True)])
def test_telling_names_yield_to_what_explains_far_more(
    share: float, followed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most names tell, these do not: a fault far behind must not keep them in their order."""
    monkeypatch.setattr(Candidates, "names_tell", lambda made, plan: True)
    monkeypatch.setattr(Candidates, "names_forbid", lambda made, plan, other: False)

    def favours(mapping: Mapping) -> Evidence:
        return Evidence(share if kernels(mapping) == USED else 0.4, 0.3)

    frameworks = {"reference_framework": "torch", "port_framework": "keras"}
    defined = candidates(reference(), port(), **frameworks)
    used = candidates(reference(), port("pq", "kj", "uv"), ordered=True, siblings=(), **frameworks)
    found = Search(defined, favours).with_use(used, defined.plan, favours(defined.best))
    assert (found is not None) == followed


def test_a_name_that_tells_is_not_overruled_by_a_port_that_seems_closer() -> None:
    """The names say which is which: a port that takes one for another is wrong."""
    exchanged = {"first": "second", "second": "first", "third": "third"}

    def favours(mapping: Mapping) -> Evidence:
        return Evidence(0.9 if kernels(mapping) == exchanged else 0.4, 0.3)

    names = port("first", "second", "third")
    mapping = paired(favours, port("second", "first", "third"), defined=names)
    assert kernels(mapping) == {name: name for name in exchanged}


def test_siblings_of_a_wrong_port_are_no_question_where_the_definition_orders_them() -> None:
    siblings = (("first.weight", "second.weight"),)
    assert kernels(paired(says_nothing, port(), siblings)) == DEFINED


def test_siblings_are_still_tried_in_every_order() -> None:
    """A right port that neither order pairs rightly."""
    right = {"kj": "first", "pq": "second", "uv": "third"}

    def evidence(mapping: Mapping) -> Evidence:
        return Evidence(1.0, 0.0) if kernels(mapping) == right else Evidence(0.4, 0.3)

    siblings = (("first.weight", "second.weight"),)
    assert kernels(paired(evidence, port("pq", "kj", "uv"), siblings)) == right


def test_siblings_of_a_tree_sorted_by_letters_are_asked_for() -> None:
    names = ("kj", "pq", "uv")
    drawn = [parameter(f"{n}.{r}", s) for n in names for r, s in (("b", (4,)), ("w", (4, 4)))]
    siblings = (("first.weight", "second.weight"),)
    with pytest.raises(MappingError, match="the order of first, second; or in the order second"):
        paired(says_nothing, drawn, siblings, drawn, "jax")


@pytest.mark.parametrize("fault", ["", "early"])
def test_heads_of_a_wrong_port_are_no_error(fault: str) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Heads(nn.Module):
        """Two heads of one size on one tensor; `names` of trunk and heads."""

        def __init__(self, names: tuple[str, str, str], act):
            super().__init__()
            self.names, self.act = names, act
            for name in names:
                setattr(self, name, nn.Linear(4, 4))

        def forward(self, x):
            trunk, scores, boxes = (getattr(self, name) for name in self.names)
            y = self.act(trunk(x))
            return scores(y).softmax(-1), boxes(y).exp()

    found = fwc.compare(
        Heads(("trunk", "scores", "boxes"), torch.tanh),
        Heads(("uv", "kj", "pq"), torch.sigmoid if fault else torch.tanh),
        inputs={"x": fwc.TensorSpec((3, 4))},
        examples=4,
        explain=False,
    )
    assert found.verdict == ("semantic" if fault else "equivalent"), found.summary()
