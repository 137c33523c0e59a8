"""Documented layouts of recurrent layers: gates, one or two biases, layers, directions.

Canonical gates are torch's: LSTM i, f, g, o; GRU r, z, n. Every block along canonical axis 0 is
labelled by the gate sums it holds: "x.i" (input kernel), "h.i" (recurrent kernel), "bx.i", "bh.i".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.conventions import Atoms, Slot, base_kind, slot
from pytest_fwcompare.weights.transforms import Reshape, Transpose

GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
KERAS_GATES = {"lstm": "ifgo", "gru": "zrn", "rnn": "h"}

TORCH_NAME = re.compile(r"(weight|bias)_(ih|hh|hr)(?:_l(\d+))?(_reverse)?$")
FLAX_GATE = re.compile(r"(i|h)([ifgorzn]?)_?$")
FLAX_FUSED = {"dense_i": "i", "dense_h": "h"}


def cell(kind: str) -> str | None:
    """Type of a recurrent layer by its class name: "lstm", "gru", "rnn"; None for others."""
    found = re.fullmatch(r"(?:Optimized)?(LSTM|GRU|SimpleRNN|RNN|Simple)(Cell)?", kind)
    if found is None or (found[1] == "Simple" and not found[2]):
        return None
    return found[1].lower().replace("simplernn", "rnn").replace("simple", "rnn")


def labels(prefixes: Sequence[str], gates: str) -> Atoms:
    """One block a gate, each the sum of the atoms of those prefixes."""
    return tuple(frozenset(f"{prefix}.{gate}" for prefix in prefixes) for gate in gates)


def describe_cell(members: Sequence[Parameter]) -> tuple[str, list[Slot]] | None:
    """Type and slots of one direction of one layer, or None where the names are not known.

    Args:
        members: parameters of the layer: torch's and equinox's `weight_ih` and the like, Keras's
            `kernel`, `recurrent_kernel`, `bias`.
    """
    kind = cell(base_kind(members[0]))
    if kind is None:
        return None
    made = []
    for parameter in members:
        found = torch_like(parameter, kind, members) or keras_like(parameter, kind)
        if found is None:
            return None
        made.append(found)
    return kind, made


def torch_like(parameter: Parameter, kind: str, members: Sequence[Parameter]) -> Slot | None:
    """Torch and equinox: weight_ih (gates * hidden, in), bias_ih, bias_hh; or bias and bias_n."""
    gates = GATES[kind]
    roles = {member.role for member in members}
    if found := TORCH_NAME.fullmatch(parameter.role):
        if found[2] == "hr":
            atoms: Atoms = (frozenset(["projection"]),)
            return slot(parameter, "kernel", "linear", certain=True, atoms=atoms)
        prefix = ("b" if found[1] == "bias" else "") + ("x" if found[2] == "ih" else "h")
        role = "bias" if found[1] == "bias" else "kernel"
        return slot(parameter, role, "linear", certain=True, atoms=labels([prefix], gates))
    if any(role.startswith("weight_ih") for role in roles):
        if parameter.role == "bias_n":
            return slot(parameter, "bias", "", certain=True, atoms=labels(["bh"], "n"))
        if parameter.role == "bias":
            atoms = labels(["bx", "bh"], gates)
            if "bias_n" in roles:
                atoms = (*atoms[:2], frozenset(["bx.n"]))
            return slot(parameter, "bias", "", certain=True, atoms=atoms)
    return None


def keras_like(parameter: Parameter, kind: str) -> Slot | None:
    """Keras: kernel (in, gates * units), recurrent_kernel, bias of one or two rows."""
    gates = KERAS_GATES[kind]
    if parameter.role in ("kernel", "recurrent_kernel") and len(parameter.shape) == 2:
        prefix = "x" if parameter.role == "kernel" else "h"
        return slot(
            parameter,
            "kernel",
            "linear",
            Transpose((1, 0)),
            certain=True,
            atoms=labels([prefix], gates),
        )
    if parameter.role == "bias":
        if len(parameter.shape) == 2:
            atoms = labels(["bx"], gates) + labels(["bh"], gates)
            flat = Reshape((parameter.shape[0] * parameter.shape[1],))
            return slot(parameter, "bias", "", flat, certain=True, atoms=atoms)
        return slot(parameter, "bias", "", certain=True, atoms=labels(["bx", "bh"], gates))
    return None


def flax_cell(children: dict[str, list[Parameter]]) -> tuple[str, list[Slot]] | None:
    """Type and slots of a flax cell, whose gates or sums are layers of their own.

    Args:
        children: parameters by the last word of their layer: "ii", "hf" ("if_" for "if"), or
            "dense_i", "dense_h".
    """
    names = {name.rstrip("_") for name in children}
    if names == {"dense_i", "dense_h"}:
        return flax_fused(children)
    kind = next(
        (
            kind
            for kind, wanted in (
                ("lstm", {a + b for a in "ih" for b in "ifgo"}),
                ("gru", {a + b for a in "ih" for b in "rzn"}),
                ("rnn", {"i", "h"}),
            )
            if names == wanted
        ),
        None,
    )
    if kind is None:
        return None
    made = []
    for name, members in children.items():
        side, gate = name[0], name.rstrip("_")[1:] or "h"
        other = "h" if side == "i" else "i"
        twin = children.get(other + gate, children.get(f"{other}{gate}_", []))
        alone = gate == "n" and any(member.role == "bias" for member in twin)
        made.append(_flax_members(members, side, gate, alone))
    return kind, [one for some in made for one in some]


def _flax_members(members: list[Parameter], side: str, gates: str, alone: bool) -> list[Slot]:
    """Slots of one Dense layer inside a flax cell; its bias serves both sums unless `alone`."""
    prefix = "x" if side == "i" else "h"
    made = []
    for parameter in members:
        if parameter.role == "bias":
            atoms = labels([f"b{prefix}"] if alone else ["bx", "bh"], gates)
            made.append(slot(parameter, "bias", "", certain=True, atoms=atoms))
        else:
            atoms = labels([prefix], gates)
            step = Transpose((1, 0))
            made.append(slot(parameter, "kernel", "linear", step, certain=True, atoms=atoms))
    return made


def flax_fused(children: dict[str, list[Parameter]]) -> tuple[str, list[Slot]] | None:
    """Nnx cells with one Dense for the input and one for the state."""
    state = next((p for p in children["dense_h"] if p.role == "kernel"), None)
    if state is None or not state.shape[0] or state.shape[1] % state.shape[0]:
        return None
    kind = {1: "rnn", 3: "gru", 4: "lstm"}.get(state.shape[1] // state.shape[0])
    if kind is None:
        return None
    made: list[Slot] = []
    for name, members in children.items():
        found = _flax_members(members, FLAX_FUSED[name], GATES[kind], alone=False)
        if kind == "gru":
            # The state's new gate has no bias of its own: n = tanh(x_n + b_n + r * h_n).
            found = [
                slot(
                    s.parameter,
                    "bias",
                    "",
                    certain=True,
                    atoms=(*s.atoms[:2], frozenset(["bx.n"])),
                )
                if s.role == "bias"
                else s
                for s in found
            ]
        made += found
    return kind, made
