"""Every example in every framework and mode: the verdict, or the framework's own reason for none.

Runs `pytest --fwcompare --fwcompare-modes=...` on `examples/` in a process of its own and reads
what a user would read: the JSON report for verdicts, the JUnit file for what was skipped.

    python benchmarks/modes.py [--modes eager,graph,compiled] [--device cpu] [--write modes]
    python benchmarks/modes.py --read RUN.json RUN.xml [--write modes]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tables import Table

from pytest_fwcompare.backends import registry
from pytest_fwcompare.report.commands import load

ROOT = Path(__file__).parents[1]
MODES = ("eager", "graph", "compiled")
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax")

Cell = tuple[str, str, str]
"""Example, framework (or what is compared) and mode."""


def run(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Judge the examples; the JSON report and the JUnit file."""
    report, junit = folder / "run.json", folder / "run.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--fwcompare", "--fwcompare-no-timings"]
    command += [f"--fwcompare-modes={options.modes}", f"--fwcompare-devices={options.device}"]
    command += [f"--fwcompare-report={report}", f"--junitxml={junit}", "-p", "no:cacheprovider"]
    subprocess.run([*command, "examples"], cwd=ROOT, check=False, stdout=sys.stderr)
    return report, junit


def parts(name: str) -> tuple[str, list[str]]:
    """A test's name and the words of its id: "test_lenet", ["torch", "cpu", ...]."""
    test, _, words = name.partition("[")
    return test.rpartition("::")[2].removeprefix("test_"), words.rstrip("]").split("-")


def judged(report: Path) -> Iterator[tuple[Cell, str, str]]:
    """Cell, verdict and reason of every comparison."""
    for result in load(report)[0]:
        made = result.comparison
        test, words = parts(result.test)
        others = [word for word in words if word in ("lstm", "gru")]
        who = made.port if made.reference == "numpy" else f"{made.reference} and {made.port}"
        verdict = f"{made.verdict} ({made.unlike_itself})" if made.unlike_itself else made.verdict
        yield (" ".join([test, *others]), who, made.mode), verdict, made.message


def skipped(junit: Path) -> Iterator[tuple[Cell, str, str]]:
    """Cell, "skipped" and reason of every test that was."""
    for case in ElementTree.parse(junit).iter("testcase"):
        reason = case.find("skipped")
        test, words = parts(str(case.get("name")))
        if reason is not None and (mode := next((w for w in words if w in MODES), "")):
            others = [word for word in words if word in ("lstm", "gru")]
            who = words[0] if words[0] in FRAMEWORKS else "all"
            yield (" ".join([test, *others]), who, mode), "skipped", str(reason.get("message"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--read", nargs=2, type=Path, metavar=("RUN.json", "RUN.xml"))
    parser.add_argument("--write", metavar="NAME", help="a file of results/, without .md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fwcompare-") as folder:
        report, junit = options.read or run(options, Path(folder))
        found = [*judged(report), *skipped(junit)]
    present = [name for name in FRAMEWORKS if registry.backend(name).unavailable() is None]
    modes = [mode for mode in MODES if mode in {cell[2] for cell, _, _ in found}]
    verdicts: dict[Cell, set[str]] = {}
    reasons: dict[str, list[Cell]] = {}
    for cell, verdict, reason in found:
        verdicts.setdefault(cell, set()).add(verdict)
        if verdict != "equivalent":
            text = " ".join(reason.split())
            reasons.setdefault(text, []).append(cell)
    table = Table("The examples in every framework and mode", present, options.device)
    table.head(("example", "framework", *modes))
    for test, who in dict.fromkeys(cell[:2] for cell in sorted(verdicts)):
        cells = (verdicts.get((test, who, mode), {"not judged"}) for mode in modes)
        table.row(test, who, *(", ".join(sorted(cell)) for cell in cells))
    same = sum(cell == {"equivalent"} for cell in verdicts.values())
    table.say(
        "",
        f"{same} of {len(verdicts)} are equivalent. Several verdicts are those of several "
        "inputs; not judged is what a test comes to after its first failure. The others:",
        "",
    )
    for text, cells in reasons.items():
        named = "; ".join(" ".join(cell) for cell in cells)
        table.say(f"- {named}: {text}")
    if options.write:
        table.write(options.write)


if __name__ == "__main__":
    main()
