"""How often is the judge right? Every port of the corpus, right and faulty, judged as it is.

    python benchmarks/judgement.py [family ...] [--seeds 3] [--examples 20] [--jobs 2]
                                   [--weights auto|copy] [--json PATH]
                                   [--corpus tests.corpus] [--only fault ...]
                                   [--no-policies]

Each family runs in a process of its own. Prints a line for each port and then the totals: mapped,
detected, false alarms, culprits, causes; the confusion table of the verdicts; and beside it what
plain tolerances and torch dynamo's float64 rule say of the same ports (see `policies.py`), their
weights copied by hand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def judge_family(
    family: str,
    seeds: int,
    examples: int,
    weights: str,
    name: str,
    only: list[str],
    beside: bool,
) -> list[dict]:
    """Judge all ports of a family; plain rows, with the flags of plain policies if asked for."""
    import corpus
    from policies import flags_of

    ports = corpus.load(name)
    rows = []
    for case in ports.load_family(family):
        for fault_name in (None, *case.faults):
            if only and (fault_name or "right") not in only:
                continue
            for seed in range(seeds):
                rows.append(judge_port(case, fault_name, seed, examples, weights))
                print(line(rows[-1]), flush=True)
            if beside:
                flags = flags_of(case, fault_name)
                for row in rows[-seeds:]:
                    row["policies"] = flags
    return rows


def judge_port(case, fault_name: str | None, seed: int, examples: int, weights: str) -> dict:
    """One comparison as a plain row."""
    import corpus
    import torch

    import pytest_fwcompare as fwc

    fault = case.faults[fault_name] if fault_name else None
    checks = ["forward", "backward"]
    if fault is not None and fault.shows_in == "training":
        checks.append("training")

    def reference():
        torch.manual_seed(seed)
        return case.make_reference("float32")

    def port():
        return case.make_port("float32", fault_name)

    started = time.perf_counter()
    row = {
        "case": case.name,
        "fault": fault_name or "",
        "seed": seed,
        "wanted": fault.verdict if fault else "equivalent",
        "wanted_culprit": fault.culprit if fault else None,
        "wanted_between": fault.between if fault else None,
        "wanted_cause": fault.cause if fault else None,
    }
    try:
        found = fwc.compare(
            reference,
            port,
            inputs=corpus.specs(case),
            outputs=corpus.output_specs(case),
            weights=case.copy_weights if weights == "copy" else "auto",
            checks=tuple(checks),
            examples=examples,
            seed=seed,
        )
    except Exception as error:  # a benchmark counts failures, it does not stop at one
        row |= {"verdict": f"{type(error).__name__}", "message": str(error)[:500]}
    else:
        row |= {
            "verdict": found.verdict,
            "message": found.message,
            "culprit": found.culprit,
            "between": found.between,
            "port_culprit": found.port_culprit,
            "cause": found.cause,
            "evidence": found.evidence[:3],
            "further": [(other.culprit, other.cause) for other in found.further],
            "notices": found.notices,
            "gap": found.gap,
            "noise": found.noise,
            "example": found.examples.worst.description if found.examples.worst else "",
            "tensors": [
                (t.name, t.verdict, t.gap, t.jitter, t.port_noise)
                for t in found.tensors
                if t.verdict != "equivalent"
            ][:4],
        }
    row["seconds"] = round(time.perf_counter() - started, 2)
    row["right_verdict"] = row["verdict"] == row["wanted"] or (
        # Where copying is the fault, a mapping of its own makes the port right.
        weights == "auto" and is_copy_fault(case, fault_name) and row["verdict"] == "equivalent"
    )
    return row


def is_copy_fault(case, fault_name: str | None) -> bool:
    """True for the two ports that are right themselves."""
    if not fault_name:
        return False
    return bool(getattr(case.make_port("float32", fault_name), "copy_fault", None))


def line(row: dict) -> str:
    """One row for a person."""
    mark = "ok " if row["right_verdict"] else "BAD"
    place = ""
    if row["wanted"] not in ("equivalent",) and row["verdict"] != "equivalent":
        exact = "=" if row.get("culprit") == row["wanted_culprit"] else "!"
        cause = {True: "=", False: "!"}[row.get("cause") == row["wanted_cause"]]
        place = (
            f" culprit {row.get('culprit')!r}{exact}{row['wanted_culprit']!r}"
            f" cause {row.get('cause')}{cause}{row['wanted_cause']}"
        )
        if row.get("further"):
            place += f" further {row['further']}"
    told = "" if row["right_verdict"] else f" ({row['wanted']}) {row['message']}"
    return (
        f"{mark} {row['case']}/{row['fault'] or 'right'}/{row['seed']}: {row['verdict']}{told} "
        f"gap {row.get('gap', 0):.1e}{place} {row['seconds']} s"
    )


def totals(rows: list[dict]) -> str:
    """The figures the goals are set in."""
    right = [row for row in rows if row["wanted"] == "equivalent"]
    faulty = [row for row in rows if row["wanted"] not in ("equivalent", "subgradient")]
    found = [row for row in faulty if row["verdict"] not in ("equivalent", "subgradient")]
    located = [row for row in rows if row["wanted"] == "semantic" and row["verdict"] == "semantic"]
    exact = [row for row in located if row.get("culprit") == row["wanted_culprit"]]
    caused = [row for row in located if row.get("cause") == row["wanted_cause"]]
    wrong = [row for row in located if row.get("cause") not in (None, row["wanted_cause"])]
    named = sum(cause is not None for row in located for _, cause in row.get("further", []))
    alarms = [r for r in rows if r["wanted"] in ("equivalent", "subgradient") and is_alarm(r)]
    calm = len(rows) - len(faulty)
    mapped = [row for row in rows if row["verdict"] != "MappingError"]
    lines = [
        f"ports judged          {len(rows)}",
        f"mapped                {len(mapped)}/{len(rows)}",
        f"right verdict         {sum(row['right_verdict'] for row in rows)}/{len(rows)}",
        f"right ports passed    {sum(r['verdict'] == 'equivalent' for r in right)}/{len(right)}",
        f"faults detected       {len(found)}/{len(faulty)}",
        f"false alarms          {len(alarms)}/{calm} of right ports and subgradient variants",
        f"culprit exact         {len(exact)}/{len(located)} of semantic faults found",
        f"cause right           {len(caused)}/{len(located)}",
        f"cause wrongly named   {len(wrong)}/{len(located)}",
        f"named further places  {named} (every fault is planted alone)",
        f"seconds               {sum(row['seconds'] for row in rows):.0f}",
        "",
        confusion(rows),
    ]
    beside = [row for row in rows if "policies" in row]
    if beside:
        lines += ["", plain(beside)]
    return "\n".join(lines)


CLASSES = ("equivalent", "semantic", "precision", "subgradient", "nonfinite", "error")


def is_alarm(row: dict) -> bool:
    """Whether a verdict fails a test."""
    return row["verdict"] not in ("equivalent", "subgradient")


def confusion(rows: list[dict]) -> str:
    """A row for each class as recorded in the corpus, a column for each verdict."""
    counts = Counter((row["wanted"], row["verdict"]) for row in rows)
    verdicts = [*CLASSES, *sorted({row["verdict"] for row in rows} - set(CLASSES))]
    wanted = [name for name in CLASSES if any(row["wanted"] == name for row in rows)]
    lines = [f"{'recorded as':14s}" + "".join(f"{name:>13s}" for name in verdicts)]
    for name in wanted:
        cells = "".join(f"{counts[name, verdict] or '.':>13}" for verdict in verdicts)
        lines.append(f"{name:14s}{cells}")
    return "\n".join(lines)


def plain(rows: list[dict]) -> str:
    """Faults detected and false alarms, of this judge and of plain policies on the same ports."""
    groups = [
        [r for r in rows if r["wanted"] not in ("equivalent", "subgradient")],
        [r for r in rows if r["wanted"] == "equivalent"],
        [r for r in rows if r["wanted"] == "subgradient"],
    ]
    lines = [f"{'':22s}{'faults':>10s}{'right ports':>13s}{'subgradient':>13s}"]

    def told(name: str, flagged: Callable[[dict], bool]) -> str:
        cells = [f"{sum(map(flagged, group))}/{len(group)}" for group in groups]
        return f"{name:22s}{cells[0]:>10s}{cells[1]:>13s}{cells[2]:>13s}"

    lines.append(told("fwcompare", is_alarm))
    for policy in rows[0]["policies"]:
        lines.append(told(policy, lambda row, policy=policy: row["policies"][policy]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--weights", choices=("auto", "copy"), default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--corpus", default="ports", help="a package with FAMILIES")
    parser.add_argument("--only", nargs="*", default=[], help='faults, "right" for none')
    parser.add_argument("--no-policies", action="store_true", help="without plain tolerances")
    options = parser.parse_args()
    import corpus

    families = options.families or list(corpus.load(options.corpus).FAMILIES)
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for done in [
            pool.submit(
                judge_family,
                family,
                options.seeds,
                options.examples,
                options.weights,
                options.corpus,
                options.only,
                not options.no_policies and options.corpus == "ports",
            )
            for family in families
        ]:
            rows += done.result()
    print()
    print(totals(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
