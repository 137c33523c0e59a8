"""Recurrent layers and attention, as Keras documents them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.keras.documented.base import (
    Stored,
    Undocumented,
    Use,
    documents,
)
from pytest_fwcompare.networks.base import Node
from pytest_fwcompare.networks.layers import Recurrent
from pytest_fwcompare.weights.transforms import Blocks, Each, Identity, Reshape, Stack, Transform


def _cell(kind: str, config: Mapping[str, Any]) -> Recurrent:
    """The described layer of a recurrent one."""
    use = Use(kind, config, [], [])
    use.refuse(stateful=False, return_state=False)
    if config["go_backwards"] and config["return_sequences"]:
        raise Undocumented("a sequence handed out backwards")
    shared = {
        "use_bias": config["use_bias"],
        "return_sequences": config["return_sequences"],
        "reverse": config["go_backwards"],
    }
    if kind == "SimpleRNN":
        return fn.SimpleRNN(config["units"], activation=config["activation"], **shared)
    use.refuse(activation="tanh", recurrent_activation="sigmoid")
    if kind == "LSTM":
        return fn.LSTM(config["units"], **shared)
    if kind == "GRU":
        return fn.GRU(
            config["units"], reset="after" if config["reset_after"] else "before", **shared
        )
    raise Undocumented(f"no formula for a recurrent layer {kind}")


def _cell_stored(cell: Recurrent, name: str, owner: str) -> list[Stored]:
    """Keras orders the gates of a GRU update, reset, new, and stacks its two biases."""
    order: Transform = Blocks((1, 0, 2)) if isinstance(cell, fn.GRU) else Identity()
    biases: tuple[str, ...] = (f"{name}bias",)
    bias = order
    if isinstance(cell, fn.GRU) and cell.reset == "after":
        biases, bias = (f"{name}bias", f"{name}recurrent_bias"), Each(order, Stack(0))
    return [
        (f"{owner}cell.kernel", (f"{name}kernel",), order),
        (f"{owner}cell.recurrent_kernel", (f"{name}recurrent_kernel",), order),
        (f"{owner}cell.bias", biases, bias),
    ]


@documents("SimpleRNN", "LSTM", "GRU")
def _recurrent(use: Use) -> Node:
    cell = replace(_cell(use.kind, use.config), name="cell")
    use.stored += _cell_stored(cell, "cell.", "")
    return cell(*use.inputs)


MERGES: dict[str, Literal["concatenate", "sum", "average", "multiply"]] = {
    "concat": "concatenate",
    "sum": "sum",
    "ave": "average",
    "mul": "multiply",
}


@documents("Bidirectional")
def _bidirectional(use: Use) -> Node:
    config = use.config
    if config["merge_mode"] not in MERGES:
        raise Undocumented(f"merge_mode={config['merge_mode']!r}")
    inner, other = config["layer"], config.get("backward_layer")
    cell = _cell(inner["class_name"], inner["config"])
    if other is not None:
        skipped = ("name", "go_backwards")
        left = {k: v for k, v in inner["config"].items() if k not in skipped}
        right = {k: v for k, v in other["config"].items() if k not in skipped}
        if left != right or other["class_name"] != inner["class_name"]:
            raise Undocumented("directions of different kinds")
    use.stored += _cell_stored(cell, "both.forward.", "forward_layer.")
    use.stored += _cell_stored(cell, "both.backward.", "backward_layer.")
    made = fn.Bidirectional(cell, merge=MERGES[config["merge_mode"]], name="both")
    return made(*use.inputs)


@documents("MultiHeadAttention")
def _attention(use: Use) -> Node:
    config = use.config
    use.refuse(use_gate=False, output_shape=None, sliding_window=None, value_dim=config["key_dim"])
    if tuple(config["attention_axes"] or (1,)) != (1,):
        raise Undocumented(f"attention_axes={config['attention_axes']!r}")
    causal = bool(use.options.get("use_causal_mask"))
    if left := set(use.options) - {"use_causal_mask"}:
        raise Undocumented(f"called with {', '.join(sorted(left))}")
    heads, size = config["num_heads"], config["key_dim"]
    layer = fn.MultiHeadAttention(heads, size, causal, config["use_bias"], name="attention")
    for part in ("query", "key", "value"):
        features = use.shapes[0 if part == "query" else -1][-1]
        use.keep(
            "attention",
            **{
                f"{part}_kernel": (f"{part}_dense.kernel", Reshape((features, heads, size))),
                f"{part}_bias": (f"{part}_dense.bias", Reshape((heads, size))),
            },
        )
    features = use.shapes[0][-1]
    use.keep(
        "attention",
        output_kernel=("output_dense.kernel", Reshape((heads, size, features))),
        output_bias="output_dense.bias",
    )
    return layer(*use.inputs)
