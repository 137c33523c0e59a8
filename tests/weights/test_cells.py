"""Recurrent cells with kernels for input and state joined, against cells that keep them apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest_fwcompare as fwc
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights import transforms
from pytest_fwcompare.weights.cells import layouts_of, pair_cell, read_apart
from pytest_fwcompare.weights.mapping import Link, Mapping
from pytest_fwcompare.weights.transforms import Concatenate, Parallel, Take
from pytest_fwcompare.weights.trees import Unit, units
from tests.weights.trees import parameter

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

INNER, HIDDEN, STEPS = 3, 5, 3
INPUTS = {"x": fwc.TensorSpec(("batch", STEPS, INNER))}


# Pairs of layers -------------------------------------------------------------------------------


def lstm_torch(inner: int, hidden: int) -> list[Unit]:
    shapes = {"weight_ih": (inner,), "weight_hh": (hidden,), "bias_ih": (), "bias_hh": ()}
    made = [
        parameter(f"cell.{name}", (4 * hidden, *rest), "LSTMCell") for name, rest in shapes.items()
    ]
    return units(made, "torch")


def lstm_keras(inner: int, hidden: int) -> list[Unit]:
    made = [
        parameter("lstm/kernel", (inner, 4 * hidden), "LSTMCell"),
        parameter("lstm/recurrent_kernel", (hidden, 4 * hidden), "LSTMCell"),
        parameter("lstm/bias", (4 * hidden,), "LSTMCell"),
    ]
    return units(made, "keras")


def lstm_flax(inner: int, hidden: int) -> list[Unit]:
    made = []
    for gate in "ifgo":
        made.append(parameter(f"cell.i{gate}.kernel", (inner, hidden), "Dense"))
        made.append(parameter(f"cell.h{gate}.kernel", (hidden, hidden), "Dense"))
        made.append(parameter(f"cell.h{gate}.bias", (hidden,), "Dense"))
    return units(made, "jax")


def joined(inner: int, hidden: int, framework: str) -> list[Unit]:
    shape = (inner + hidden, 4 * hidden)
    if framework == "torch":
        made = [
            parameter("gates.weight", shape[::-1], "Linear"),
            parameter("gates.bias", shape[1:], "Linear"),
        ]
    else:
        made = [
            parameter("lstm/w", shape),
            parameter("lstm/b", shape[1:]),
        ]
    return units(made, framework)


def mapping(ones: list[Unit], others: list[Unit], number: int) -> Mapping:
    pairing = pair_cell(ones, others)
    assert pairing is not None
    return Mapping(
        tuple(
            Link(
                draft.port,
                draft.taken(min(number, len(draft.options) - 1)),
                draft.options[min(number, len(draft.options) - 1)][0],
                "",
            )
            for draft in pairing.drafts
        )
    )


def shapes_of(some: list[Unit]) -> dict[str, tuple[int, ...]]:
    return {slot.name: slot.native for unit in some for slot in unit.slots}


@settings(max_examples=40, deadline=None)
@given(
    inner=st.integers(1, 5),
    hidden=st.integers(2, 5),
    apart=st.sampled_from([lstm_torch, lstm_keras, lstm_flax]),
    framework=st.sampled_from(["torch", "tensorflow", "jax"]),
    number=st.integers(0, 47),
)
def test_there_and_back_is_the_same(inner, hidden, apart, framework, number) -> None:
    ones, others = apart(inner, hidden), joined(inner, hidden, framework)
    there, back = mapping(ones, others, number), mapping(others, ones, number)
    rng = np.random.default_rng(number)
    values = {name: rng.standard_normal(shape) for name, shape in shapes_of(others).items()}
    made = back.port_values(values)
    assert {name: value.shape for name, value in made.items()}.items() <= shapes_of(ones).items()
    again = there.port_values({**{n: np.zeros(s) for n, s in shapes_of(ones).items()}, **made})
    for name, value in values.items():
        assert np.array_equal(again[name], value), name


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 47), forwards=st.booleans())
def test_gradients_are_pulled_back_by_the_adjoint(number, forwards) -> None:
    ones, others = lstm_flax(2, 3), joined(2, 3, "jax")
    reference, port = (ones, others) if forwards else (others, ones)
    made, rng = mapping(reference, port, number), np.random.default_rng(number)
    for link in made.links:
        shapes = [shapes_of(reference)[name] for name in link.sources]
        sources = [rng.standard_normal(shape) for shape in shapes]
        target = link.transform.apply(*sources)
        gradient = rng.standard_normal(target.shape)
        parts = link.transform.adjoint(gradient, *shapes)
        pulled = sum(float((a * b).sum()) for a, b in zip(sources, parts, strict=True))
        assert pulled == pytest.approx(float((target * gradient).sum()), rel=1e-12)


def test_the_code_of_a_mapping_can_be_pasted() -> None:
    ones, others = lstm_flax(2, 3), joined(2, 3, "jax")
    made = mapping(ones, others, 5)
    names = {name: getattr(transforms, name) for name in dir(transforms)}
    exec(made.code(), names)
    assert names["weights"]["lstm/w"] == (made.links[0].sources, made.links[0].transform)


def test_all_orders_are_options_and_each_is_another() -> None:
    pairing = pair_cell(lstm_torch(3, 5), joined(3, 5, "jax"))
    assert pairing is not None
    kernel = next(draft for draft in pairing.drafts if draft.port == "lstm/w")
    told = {(kernel.taken(n), option[0]) for n, option in enumerate(kernel.options)}
    assert len(kernel.options) == len(told) == 48
    assert kernel.options[0][1].startswith("[input; state], gates i f g o: ")


@pytest.mark.parametrize(
    "others",
    [
        units([parameter("w", (9, 20)), parameter("b", (20,))], "jax"),
        units([parameter("w", (8, 21)), parameter("b", (21,))], "jax"),
        units([parameter("w", (8, 20)), parameter("b", (5,))], "jax"),
        units([parameter("w", (8, 20, 1)), parameter("b", (20,))], "jax"),
        units([parameter("v", (3, 20)), parameter("w", (5, 20))], "jax"),
        lstm_keras(3, 5),
    ],
)
def test_what_holds_no_joined_kernel_of_these_sizes_is_refused(others) -> None:
    assert pair_cell(lstm_torch(3, 5), others) is None
    assert pair_cell(others, lstm_torch(3, 5)) is None


def test_a_cell_with_a_projection_is_left_alone() -> None:
    made = [parameter("cell.weight_hr_l0", (4, 5), "LSTM")]
    made += [parameter("cell.weight_ih_l0", (20, 3), "LSTM")]
    made += [parameter("cell.weight_hh_l0", (20, 4), "LSTM")]
    assert not list(read_apart(units(made, "torch")))


def test_gates_with_kernels_of_their_own_beside_a_joined_one() -> None:
    """A GRU that resets after its product keeps the new gate's kernels apart."""
    made = [
        parameter("gru/w", (8, 10)),
        parameter("gru/x", (3, 5)),
        parameter("gru/h", (5, 5)),
    ]
    torch_gru = [
        parameter("cell.weight_ih", (15, 3), "GRUCell"),
        parameter("cell.weight_hh", (15, 5), "GRUCell"),
    ]
    (apart,) = read_apart(units(torch_gru, "torch"))
    slots = [slot for unit in units(made, "tensorflow") for slot in unit.slots]
    # Six orders of gates, two of input and state, and two readings of the square kernel.
    assert len(list(layouts_of(apart, slots))) == 24
    pairing = pair_cell(units(torch_gru, "torch"), units(made, "tensorflow"))
    assert pairing is not None
    assert [draft.taken(0) for draft in pairing.drafts] == [
        ("cell.weight_ih", "cell.weight_hh"),
        ("cell.weight_ih",),
        ("cell.weight_hh",),
    ]


def test_a_transform_may_take_several_sources() -> None:
    made = Parallel((Concatenate(0), Take(1, 2, 0)), Concatenate(1), (2, 1))
    a, b, c = np.ones((1, 2)), np.zeros((1, 2)), np.arange(12.0).reshape(4, 3)
    assert np.array_equal(made.apply(a, b, c), [[1, 1, 6, 7, 8], [0, 0, 9, 10, 11]])
    with pytest.raises(ValueError, match="expected 3 sources, got 2"):
        made.apply(a, c)


# Whole networks --------------------------------------------------------------------------------


class Documented(nn.Module):
    """Torch's own recurrent layer."""

    def __init__(self, kind: str = "LSTM") -> None:
        super().__init__()
        self.body = getattr(nn, kind)(INNER, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, x):
        return self.head(self.body(x)[0])


class Written(nn.Module):
    """An LSTM written by hand.

    Args:
        order: of the gates.
        form: "joined", "apart", or "each": a kernel of [state; input] for every gate.
        squash: of the state that is given out; another than tanh is the fault.
    """

    def __init__(self, order="igfo", form="joined", squash=torch.tanh) -> None:
        super().__init__()
        self.order, self.form, self.squash = order, form, squash
        if form == "each":
            self.gates = nn.ModuleList(nn.Linear(INNER + HIDDEN, HIDDEN) for _ in order)
        elif form == "joined":
            self.gates = nn.Linear(INNER + HIDDEN, 4 * HIDDEN)
        else:
            self.of_input = nn.Linear(INNER, 4 * HIDDEN)
            self.of_state = nn.Linear(HIDDEN, 4 * HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, 2)

    def products(self, x, h):
        if self.form == "each":
            return [gate(torch.cat([h, x], -1)) for gate in self.gates]
        if self.form == "joined":
            return self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        return (self.of_input(x) + self.of_state(h)).chunk(4, -1)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], HIDDEN)
        steps = []
        for t in range(x.shape[1]):
            gates = dict(zip(self.order, self.products(x[:, t], h), strict=True))
            c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * gates["g"].tanh()
            h = gates["o"].sigmoid() * self.squash(c)
            steps.append(h)
        return self.out(torch.stack(steps, 1))


def judged(reference, port):
    return fwc.compare(reference, port, inputs=INPUTS, examples=3, explain=False)


@pytest.mark.parametrize(
    "networks",
    [
        (Documented, Written),
        (lambda: Written("ogfi"), Documented),
        (Documented, lambda: Written("figo", "each")),
        (lambda: Written("figo", "each"), Documented),
        (lambda: Written("ifgo", "apart"), lambda: Written("fogi")),
        (lambda: Written("fogi"), lambda: Written("ifgo", "apart")),
    ],
)
def test_any_order_of_gates_is_found(networks) -> None:
    torch.manual_seed(0)
    found = judged(*(make() for make in networks))
    assert found.verdict == "equivalent", found.summary()
    assert all(row.port and row.references for row in found.weights if "bias_hh" not in row.port)


def test_a_joined_kernel_in_another_framework() -> None:
    jax = pytest.importorskip("jax")
    jnp, rng = jax.numpy, np.random.default_rng(0)
    shapes = {
        "cell": {"w": (INNER + HIDDEN, 4 * HIDDEN), "b": (4 * HIDDEN,)},
        "head": {"w": (HIDDEN, 2), "b": (2,)},
    }
    params = {
        layer: {n: rng.standard_normal(s).astype(np.float32) for n, s in own.items()}
        for layer, own in shapes.items()
    }

    def port(params, x):
        h = c = jnp.zeros((x.shape[0], HIDDEN), x.dtype)
        steps = []
        for t in range(x.shape[1]):
            made = jnp.concatenate([h, x[:, t]], -1) @ params["cell"]["w"] + params["cell"]["b"]
            o, i, g, f = jnp.split(made, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            steps.append(h)
        return jnp.stack(steps, 1) @ params["head"]["w"] + params["head"]["b"]

    torch.manual_seed(0)
    found = judged(Documented(), (port, params))
    assert found.verdict == "equivalent", found.summary()
    assert any("[state; input], gates o i g f" in notice for notice in found.notices)


def test_a_wrong_cell_whose_gates_nothing_tells_is_refused() -> None:
    """Not judged with gates taken at random: that would accuse the wrong thing."""
    torch.manual_seed(0)
    with pytest.raises(MappingError) as caught:
        judged(Documented(), Written(squash=torch.relu))
    text = str(caught.value)
    assert "[input; state], gates " in text
    assert "or 44 more ways" in text
    assert "With none of these do the outputs agree" in text


def test_a_wrong_layer_before_the_cell_is_judged_and_named() -> None:
    """What lies behind a difference cannot be told, and need not be."""

    class Stem(nn.Module):
        def __init__(self, body, active) -> None:
            super().__init__()
            self.stem, self.body, self.active = nn.Linear(INNER, INNER), body, active

        def forward(self, x):
            return self.body(self.active(self.stem(x)))

    torch.manual_seed(0)
    reference, port = Stem(Documented(), torch.tanh), Stem(Written(), torch.sigmoid)
    found = fwc.compare(reference, port, inputs=INPUTS, examples=3)
    assert (found.verdict, found.cause) == ("semantic", "activation-variant"), found.summary()
