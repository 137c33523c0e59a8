"""Ports that hide what is what are paired by values, block by block; a wrong one never passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.comparing import link
from pytest_fwcompare.weights import Evidence, Mapping

torch = pytest.importorskip("torch")

from . import disguise as d  # noqa: E402
from . import disguised_nets as nets  # noqa: E402

NETS: dict[str, Callable[[], d.Net]] = {
    "transformer": lambda: nets.transformer(3),
    "language": lambda: nets.transformer(2, vocabulary=11),
    "translator": lambda: nets.translator(1),
    "convolutions": lambda: nets.convolutions(2),
    "recurrent": nets.recurrent,
    "experts": nets.experts,
    "towers": nets.towers,
    "twins": lambda: nets.twins(4),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def judged(net: d.Net, port: Any, **more: Any) -> fwc.Comparison:
    return fwc.compare(
        d.Reference(net).eval(),
        port,
        inputs=net.inputs,
        examples=2,
        explain=False,
        checks=("forward",),
        **more,
    )


@pytest.mark.parametrize("seed", [0, 10])
@pytest.mark.parametrize("name", NETS)
def test_a_disguised_port_is_mapped_and_equivalent(name: str, seed: int) -> None:
    net = NETS[name]()
    found = judged(net, d.TorchPort(net, d.Disguise.drawn(seed)))
    assert found.verdict == "equivalent", found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 30))
@pytest.mark.parametrize("name", NETS)
def test_many_disguised_ports_are_mapped(name: str, seed: int) -> None:
    net = NETS[name]()
    found = judged(net, d.TorchPort(net, d.Disguise.drawn(seed)))
    assert found.verdict == "equivalent", found.summary()


@pytest.mark.parametrize("fuse", ["", "order", "mixed", "heads"])
def test_every_way_to_keep_query_key_and_value(fuse: str) -> None:
    net = nets.transformer(2)
    found = judged(net, d.TorchPort(net, d.Disguise(5, turn="some", fuse=fuse)))
    assert found.verdict == "equivalent", found.summary()


FAULTS = [
    ("transformer", ("gelu", 0)),
    ("transformer", ("softmax", 1)),
    ("language", ("norm", 3)),
    ("translator", ("relu", 1)),
    ("convolutions", ("relu", 0)),
    ("convolutions", ("norm", 3)),
    ("experts", ("gelu", 1)),
    ("twins", ("norm", 0)),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda value: str(value))
def test_a_disguised_port_with_a_fault_is_never_equivalent(name: str, fault: Any) -> None:
    net = NETS[name]()
    for seed in (1,):
        try:
            found = judged(net, d.TorchPort(net, d.Disguise.drawn(seed), fault))
        except fwc.MappingError as error:
            assert "nothing tells which is meant" in str(error)  # noqa: PT017
        else:
            assert found.verdict == "semantic", found.summary()


def test_what_goes_before_a_fault_is_paired_rightly() -> None:
    """Names and order mean nothing: values pair all layers up to the fault."""
    net = nets.transformer(3)
    port = d.TorchPort(net, d.Disguise(3, fuse="heads"), ("gelu", 1))
    found = judged(net, port)
    assert found.verdict == "semantic"
    meant = {new: old for old, new in port.hidden.names.items()}
    before = [row for row in found.weights if meant[row.port].startswith("blocks.0.")]
    assert len(before) == 12
    assert all(row.references[0] == meant[row.port] for row in before)


def test_the_search_grows_with_the_blocks_not_with_the_product_of_their_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Mapping] = []
    original = link.evidence_of

    def counted(*args: Any, **options: Any) -> Callable[[Mapping], Evidence]:
        evidence = original(*args, **options)

        def count(mapping: Mapping) -> Evidence:
            asked.append(mapping)
            return evidence(mapping)

        return count

    monkeypatch.setattr(link, "evidence_of", counted)
    numbers = []
    for blocks in (2, 5):
        asked.clear()
        net = nets.transformer(blocks)
        found = judged(net, d.TorchPort(net, d.Disguise(1)))
        assert found.verdict == "equivalent", found.summary()
        numbers.append(len(asked))
    assert (
        numbers[1] - numbers[0] <= 3 * 15
    )  # five other orders of three, head counts, axis orders


def test_an_order_found_in_one_block_is_tried_in_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deep port whose author takes value, key, query costs hardly more than a flat one."""
    import torch
    from torch import nn

    class Blocks(nn.Module):
        """Attention blocks, their layers named, or all parameters in one list without names."""

        def __init__(self, count: int, named: bool) -> None:
            super().__init__()
            self.count, self.named = count, named
            layers = [nn.ModuleList(nn.Linear(6, 6) for _ in range(4)) for _ in range(count)]
            if named:
                self.blocks = nn.ModuleList(layers)
            else:
                self.all = nn.ParameterList(p for layer in layers for p in layer.parameters())

        def forward(self, x):
            for block in range(self.count):
                if self.named:
                    query, key, value, out = self.blocks[block]
                    q, k, v = query(x), key(x), value(x)
                else:
                    held = list(self.all)[8 * block : 8 * block + 8]
                    v, k, q = (nn.functional.linear(x, *held[i : i + 2]) for i in (0, 2, 4))
                mixed = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
                x = x + (out(mixed) if self.named else nn.functional.linear(mixed, *held[6:]))
            return x

    asked: list[Mapping] = []
    original = link.evidence_of

    def counted(*args: Any, **options: Any) -> Callable[[Mapping], Evidence]:
        evidence = original(*args, **options)
        return lambda mapping: asked.append(mapping) or evidence(mapping)

    monkeypatch.setattr(link, "evidence_of", counted)
    numbers = []
    for count in (2, 4):
        torch.manual_seed(0)
        asked.clear()
        found = fwc.compare(
            Blocks(count, True),
            Blocks(count, False),
            inputs={"x": fwc.TensorSpec(("batch", 3, 6))},
            examples=2,
            explain=False,
        )
        assert found.verdict == "equivalent", found.summary()
        assert any("alike in all such places" in notice for notice in found.notices)
        numbers.append(len(asked))
    assert numbers[0] == numbers[1]


def test_a_port_in_another_framework() -> None:
    pytest.importorskip("jax")
    net = nets.transformer(1)
    found = judged(net, d.jax_port(net, d.Disguise(4, fuse="mixed")))
    assert found.verdict == "equivalent", found.summary()


def test_query_and_key_exchanged_against_their_names_is_a_fault() -> None:
    """What names tell apart is not exchanged to make values agree."""
    from torch import nn

    class Attention(nn.Module):
        def __init__(self, exchanged: bool = False) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
            self.exchanged = exchanged

        def forward(self, x: Any) -> Any:
            q, k = self.query(x), self.key(x)
            if self.exchanged:
                q, k = k, q
            return torch.softmax(q @ k.swapaxes(1, 2), -1) @ self.value(x)

    found = fwc.compare(
        Attention(),
        Attention(exchanged=True),
        inputs={"x": fwc.TensorSpec((2, 3, 4))},
        examples=2,
        explain=False,
    )
    assert found.verdict == "semantic", found.summary()


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_a_named_projection_that_is_split_in_the_wrong_order_is_a_fault(order: Any) -> None:
    from torch import nn

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict(
                {name: nn.Linear(4, 4) for name in ("query", "key", "value")}
            )
            self.output = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            q, k, v = (layer(x) for layer in self.attention.values())
            return self.output(torch.softmax(q @ k.swapaxes(1, 2), -1) @ v)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict({"packed": nn.Linear(4, 12)})
            self.output = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            parts = self.attention["packed"](x).split(4, -1)
            q, k, v = (parts[place] for place in order)
            return self.output(torch.softmax(q @ k.swapaxes(1, 2), -1) @ v)

    found = fwc.compare(
        Apart(), Fused(), inputs={"x": fwc.TensorSpec((2, 3, 4))}, examples=2, explain=False
    )
    assert found.verdict == ("equivalent" if order == (0, 1, 2) else "semantic"), found.summary()


def test_a_port_that_gives_nan_with_some_weights_is_not_taken_as_settled() -> None:
    """A variance filled with a mean gives NaN, which is no agreement."""
    net = nets.convolutions(1)
    found = judged(net, d.TorchPort(net, d.Disguise(0)))
    assert found.verdict == "equivalent", found.summary()
