"""Is a cause ever named wrongly? One random change in one call of a right port, again and again.

    python benchmarks/mutations.py [network ...] [--to torch fused jax tensorflow] [--from torch]
                                   [--count 100] [--seed 0] [--json PATH] [--only change ...]

The networks are in `mutants/nets.py`, the changes, with the words that are true of each, in
`mutants/changes.py`; most are none of the catalogue. Prints a line for each port and the totals:
verdicts, culprits, and causes that are right, none, or wrongly named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import warnings
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]

from mutants.changes import CHANGES, Change  # noqa: E402
from mutants.nets import NETS, Net  # noqa: E402
from mutants.ops import JaxOps, Ops, TensorflowOps, TorchOps  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402


@dataclass(frozen=True)
class Mutant:
    """A port with one change.

    Attributes:
        net: name of the network.
        change: name of the change; "" for the right port.
        call: number of the changed call.
        source, target: frameworks of the reference and the port.
    """

    net: str
    change: str
    call: int
    source: str = "torch"
    target: str = "torch"


def planted(change: Change, number: int) -> Any:
    """What `Ops` calls for every operation: as always, but for one call."""

    def use(o: Ops, at: int, name: str, compute: Any, given: tuple, options: dict) -> Any:
        if at != number:
            return compute(*given, **options)
        return change.make(o, _named(compute, name), given, options)

    return use


def _named(compute: Any, name: str) -> Any:
    def made(*given: Any, **options: Any) -> Any:
        return compute(*given, **options)

    made.__name__ = name
    return made


def weights_of(net: Net, seed: int) -> dict[str, np.ndarray]:
    """Values by parameter name."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in net.shapes.items():
        spread = (1.0 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.4
        value = spread * rng.normal(size=shape)
        made[name] = value + ("scale" in name or name.endswith("var"))
    return made


def torch_model(net: Net, weights: dict[str, np.ndarray], change: Any, fused: bool) -> Any:
    """A tree of modules, one for each that runs."""
    import torch
    from torch import nn

    class Node(nn.Module):
        def forward(self, function, *inputs):
            return function(*inputs)

    class Root(nn.Module):
        def forward(self, *inputs):
            o = TorchOps(change, fused, self)
            return net.forward(o, dict(self.named_parameters()), *inputs)

    root = Root()

    def node(path: str) -> Any:
        at = root
        for part in path.split(".") if path else []:
            if not hasattr(at, part):
                at.add_module(part, Node())
            at = getattr(at, part)
        return at

    for name, value in weights.items():
        path, _, last = name.rpartition(".")
        made = nn.Parameter(torch.from_numpy(value.astype("float32")))
        node(path).register_parameter(last, made)
    for path in net.paths:
        node(path)
    return root.eval()


def jax_model(net: Net, weights: dict[str, np.ndarray], change: Any) -> Any:
    """A function of nested parameters, and the parameters."""
    import jax.numpy as jnp

    params = {name: jnp.asarray(value, "float32") for name, value in weights.items()}
    return (lambda p, *inputs: net.forward(JaxOps(change), p, *inputs)), params


def tensorflow_model(net: Net, weights: dict[str, np.ndarray], change: Any) -> Any:
    """A `tf.Module` with its variables by name."""
    import tensorflow as tf

    class Root(tf.Module):
        def __init__(self):
            super().__init__(name="root")
            self.held = {
                name: tf.Variable(value.astype("float32"), name=name.replace(".", "_"))
                for name, value in weights.items()
            }

        def __call__(self, *inputs):
            return net.forward(TensorflowOps(change), self.held, *inputs)

    return Root()


def model(name: str, framework: str, seed: int, change: Any = None) -> Any:
    """A network in a framework; "fused" is torch with its own composites."""
    net = NETS[name]
    weights = weights_of(net, seed)
    if framework in ("torch", "fused"):
        return torch_model(net, weights, change, framework == "fused")
    made = jax_model if framework == "jax" else tensorflow_model
    return made(net, weights, change)


@cache
def calls(name: str, fused: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    """Operation, module path and shape of the value of every call of a network."""
    import torch

    net = NETS[name]
    o = TorchOps(None, fused, model(name, "torch", 0))
    given = []
    for spec in net.inputs.values():
        shape = tuple(size if isinstance(size, int) else 2 for size in spec.shape)
        words = spec.dtype == "int64"
        given.append(torch.zeros(shape, dtype=torch.int64) if words else torch.ones(shape))
    net.forward(o, dict(o._root.named_parameters()), *given)
    return o.calls


def mutants(names: list[str], only: list[str], source: str, targets: list[str]) -> list[Mutant]:
    """All changes in all calls that they can be planted in."""
    made = []
    for name in names:
        for target in targets:
            for number, (operation, _, _) in enumerate(calls(name, target == "fused")):
                for one in CHANGES:
                    if operation in one.operations and (not only or one.name in only):
                        made.append(Mutant(name, one.name, number, source, target))
    return made


def judge(mutant: Mutant, seed: int = 0, examples: int = 4) -> dict[str, Any]:
    """One comparison as a plain row."""
    one = next((c for c in CHANGES if c.name == mutant.change), None)
    operation, path, _ = (
        calls(mutant.net, mutant.target == "fused")[mutant.call] if one else ("", "", ())
    )
    change = planted(one, mutant.call) if one else None
    row = {**asdict(mutant), "operation": operation, "path": path, "seed": seed}
    names = {name: name for name in NETS[mutant.net].shapes}
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fwc.compare(
                lambda: model(mutant.net, mutant.source, seed),
                lambda: model(mutant.net, mutant.target, seed, change),
                inputs=dict(NETS[mutant.net].inputs),
                weights=copier(mutant) if mutant.target != "fused" else names,
                examples=examples,
                seed=seed,
            )
    except Exception as error:
        return {**row, "verdict": type(error).__name__, "message": str(error)[:300], "cause": None}
    row |= {
        "verdict": found.verdict, "message": found.message, "culprit": found.culprit,
        "cause": found.cause, "evidence": list(found.evidence), "notices": list(found.notices),
        "seconds": round(time.process_time() - started, 2),
    }  # fmt: skip
    row["place"] = place(row)
    row["named"] = named(row, one)
    return row


def copier(mutant: Mutant) -> Any:
    """Weights copied by hand."""

    def values(side: Any, framework: str) -> dict[str, np.ndarray]:
        if framework in ("torch", "fused"):
            return {n: p.detach().numpy() for n, p in side.named_parameters()}
        if framework == "jax":
            return {name: np.asarray(value) for name, value in side[1].items()}
        return {name: value.numpy() for name, value in side.held.items()}

    def copy(reference: Any, port: Any) -> None:
        given = values(reference, mutant.source)
        if mutant.target == "jax":
            import jax.numpy as jnp

            port[1].update({name: jnp.asarray(value) for name, value in given.items()})
        elif mutant.target == "tensorflow":
            for name, value in given.items():
                port.held[name].assign(value)
        else:
            import torch

            port.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in given.items()})

    return copy


def place(row: dict[str, Any]) -> str:
    """Whether the culprit is the changed module, one beside it, or another."""
    found, path = row["culprit"], row["path"]
    if row["verdict"] == "equivalent" or not row["change"]:
        return ""
    if row["source"] not in ("torch", "fused"):
        return "unknown"
    if found == path:
        return "exact"
    return "none" if found is None else "near" if _related(found, path) else "far"


def _related(one: str, other: str) -> bool:
    parents = [path.rpartition(".")[0] for path in (one, other)]
    return parents[0] == parents[1] or parents[0] == other or parents[1] == one


def named(row: dict[str, Any], change: Change | None) -> str:
    """What is to be said of the cause."""
    if row["verdict"] == "equivalent":
        return "unseen" if change else "right"
    if row["verdict"] == "error":
        return "error"  # the change does not fit there
    if row["cause"] is None:
        return "none"
    if change is None:
        return "WRONG"
    told = " ".join(row["evidence"])
    if row["cause"] in change.causes:
        return "right"
    # A residual has two summands: a scaled product is none.
    summed = row["cause"] != "residual" or "summand" in told
    if summed and any(number in told for number in change.numbers):
        return "right"
    return "WRONG"


def line(row: dict[str, Any]) -> str:
    """One row for a person."""
    where = f"{row['operation']} of {row['path'] or 'the root'} ({row['call']})"
    told = f" {row['cause']}: {'; '.join(row['evidence'][:2])}" if row["cause"] else ""
    if row["verdict"] not in ("semantic", "equivalent"):
        told += f" {row.get('message', '')}"
    place = f" [{row['place']} {row['culprit']!r}]" if row.get("place") else ""
    return (
        f"{row.get('named', 'ERROR'):6s} {row['net']} {row['source']}->{row['target']}: "
        f"{row['change'] or 'right port'} in {where}: {row['verdict']}{place}{told}"
    )


def totals(rows: list[dict[str, Any]]) -> str:
    """The figures."""
    counts = Counter(row.get("named", "error") for row in rows)
    places = Counter(row["place"] for row in rows if row.get("place"))
    seconds = sum(row.get("seconds", 0) for row in rows)
    return "\n".join(
        [
            f"ports judged         {len(rows)}, {seconds:.0f} s of processor time",
            f"not seen             {counts['unseen']} (most change nothing)",
            f"cause right          {counts['right']}",
            f"no cause claimed     {counts['none']}",
            f"cause wrongly named  {counts['WRONG']}",
            f"errors               {counts['error']}",
            f"culprit              {dict(places)}",
        ]
    )


def drawn(every: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Some of them at random: from each network and each change about as many."""
    rng = random.Random(seed)
    left = sorted(every, key=lambda one: rng.random())
    taken: Counter[tuple[str, str]] = Counter()
    order = []
    for one in left:
        order.append((max(taken["net", one.net] / 4, taken["change", one.change]), one))
        taken["net", one.net] += 1
        taken["change", one.change] += 1
    return [one for _, one in sorted(order, key=lambda pair: pair[0])][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*")
    parser.add_argument("--from", dest="source", default="torch")
    parser.add_argument("--to", nargs="*", default=["torch"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--call", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.nets or list(NETS)
    every = mutants(names, options.only, options.source, options.to)
    if options.call is not None:
        every = [one for one in every if one.call == options.call]
    rows = []
    for one in drawn(every, options.count, options.seed):
        # A seed of its own for each, whichever are chosen.
        rows.append(judge(one, zlib.crc32(repr(one).encode()) % 1000, options.examples))
        print(line(rows[-1]), flush=True)
    print(totals(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
