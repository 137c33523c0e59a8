"""What plain tolerances and torch dynamo's float64 rule find on the same ports.

    python benchmarks/policies.py [family ...] [--jobs 2]

Five standard normal (or token, mask, grid) examples, weights copied by hand, outputs (F) and
outputs with gradients (F+B). A port is flagged if any tensor of any example fails. The float64
rule is `torch._dynamo.utils.same`: pass if allclose(1e-4), else if
RMSE(port, fp64) <= 2 RMSE(reference, fp64) + tol / 10, fp64 being the reference in float64.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))


def close(rtol: float, atol: float) -> Callable[..., bool]:
    """numpy's allclose with the reference as the expected value."""

    def passes(reference, port, _exact) -> bool:
        return bool(np.allclose(port, reference, rtol=rtol, atol=atol, equal_nan=True))

    return passes


def dynamo(reference, port, exact, tol: float = 1e-4) -> bool:
    """The float64 rule of torch dynamo, computed here on NumPy arrays."""
    if close(tol, tol)(reference, port, exact):
        return True

    def rmse(value) -> float:
        return float(np.sqrt(np.mean((np.asarray(value, np.float64) - exact) ** 2)))

    ours, theirs = rmse(reference), rmse(port)
    factor = 3.0 if np.size(exact) < 1000 else 2.0
    return bool(theirs <= factor * ours + tol / 10)


POLICIES = {
    "1e-5": close(1e-5, 1e-5),
    "1e-4": close(1e-4, 1e-4),
    "1e-3": close(1e-3, 1e-3),
    "torch": close(1.3e-6, 1e-5),
    "dynamo": dynamo,
}


def flags_of(case, fault: str | None) -> dict[str, bool]:
    """Which policies flag a port, by "policy F" and "policy F+B"."""
    import corpus
    import torch

    from pytest_fwcompare.comparing.request import Story, check_request
    from pytest_fwcompare.comparison import make_pair, prepare
    from pytest_fwcompare.inputs.values import Draw
    from pytest_fwcompare.opening.given import open_side

    torch.manual_seed(0)
    request = check_request(
        corpus.specs(case), case.copy_weights, corpus.output_specs(case),
        ("forward", "backward"), "float32", "cpu", "eager", 5, 0, False, False,
    )  # fmt: skip
    axes = {"dtype": "float32", "device": "cpu", "mode": "eager"}
    ours = open_side(lambda: case.make_reference("float32"), "reference", **axes)
    theirs = open_side(lambda: case.make_port("float32", fault), "port", **axes)
    pair = make_pair(ours, theirs, request, Story(), prepare(ours, theirs, request))
    flags: Counter[str] = Counter()
    plan = request.plan
    sizes = plan.size_choices()[0]
    for index in range(5):
        draws = {
            name: Draw(spec.kind or "normal", 1.0, 100 * index + place)
            for place, (name, spec) in enumerate(plan.specs.items())
        }
        point = pair.point(plan.example(sizes, draws, "given", 0))
        exact = pair.run("reference", point, "double")
        pair.expect(exact)
        reference = pair.run("reference", point, "working")
        port = pair.run("port", point, "working")
        for name, policy in POLICIES.items():
            forward = all(
                policy(reference.outputs[key], port.outputs[key], exact.outputs[key])
                for key in exact.outputs
            )
            both = forward and all(
                policy(getattr(reference, of)[key], value, getattr(exact, of)[key])
                for of in ("inputs", "parameters")
                for key, value in getattr(port, of).items()
                if key in getattr(reference, of)
            )
            flags[f"{name} F"] += not forward
            flags[f"{name} F+B"] += not both
    return {name: flags[name] > 0 for name in (f"{p} {w}" for p in POLICIES for w in ("F", "F+B"))}


def family_rows(family: str) -> list[tuple[str, str, str, dict[str, bool]]]:
    """(case, fault, wanted verdict, flags) of every port of a family."""
    import corpus

    rows = []
    for case in corpus.load().load_family(family):
        for fault in (None, *case.faults):
            wanted = case.faults[fault].verdict if fault else "equivalent"
            rows.append((case.name, fault or "right", wanted, flags_of(case, fault)))
    return rows


def table(rows: list[tuple[str, str, str, dict[str, bool]]]) -> str:
    """Detected faults and false alarms of every policy."""
    faults = [row for row in rows if row[2] not in ("equivalent", "subgradient")]
    right = [row for row in rows if row[2] == "equivalent"]
    kinks = [row for row in rows if row[2] == "subgradient"]
    lines = [f"{'policy':12s} {'detected':>10s} {'false alarms':>13s} {'subgradient':>12s}"]
    for policy in rows[0][3]:

        def count(group, policy=policy) -> str:
            return f"{sum(row[3][policy] for row in group)}/{len(group)}"

        lines.append(f"{policy:12s} {count(faults):>10s} {count(right):>13s} {count(kinks):>12s}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    import corpus

    families = options.families or list(corpus.load().FAMILIES)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        rows = [row for found in pool.map(family_rows, families) for row in found]
    print(table(rows))


if __name__ == "__main__":
    main()
