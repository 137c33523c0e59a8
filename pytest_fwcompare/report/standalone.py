"""Shows one difference between two neural networks. Needs NumPy and the two frameworks only.

    python repro.py

Runs both networks on the inputs in inputs.npz with the weights in weights.npz, and holds what
they give against the values that the reference gives in float64 (expected.npz). case.json says
what was found. Written by pytest-fwcompare, which is not needed to run it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def load_factory(source: dict[str, Any]) -> Any:
    """The function that makes a network, from the file it is written in."""
    if source["root"]:
        sys.path.insert(0, source["root"])
        module = importlib.import_module(source["module"])
    else:
        sys.path.insert(0, str(Path(source["file"]).parent))
        spec = importlib.util.spec_from_file_location("factory_of_repro", source["file"])
        if spec is None or spec.loader is None:
            raise ImportError(f"no Python module: {source['file']}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    found: Any = module
    for name in source["name"].split("."):
        found = getattr(found, name)
    return found


def read(name: str, role: str) -> dict[str, np.ndarray]:
    """Arrays of one role, by name, in order."""
    with np.load(HERE / name, allow_pickle=False) as arrays:
        prefix = role + ": "
        return {k[len(prefix) :]: arrays[k] for k in arrays.files if k.startswith(prefix)}


def run(role: str, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """What one network gives, by name; the stored float64 values for plain formulas."""
    side, expected = case[role], read("expected.npz", role)
    if side["source"]["kind"] == "values":
        return expected
    runner = importlib.import_module("run_" + side["runner"])
    source = dict(side["source"])
    if source["kind"] == "factory":
        source["factory"] = load_factory(source)
    else:
        source["path"] = str(HERE / source["path"])
    inputs = read("inputs.npz", role)
    arguments = [(name, inputs[name], keyword) for name, keyword in side["arguments"]]
    made: dict[str, np.ndarray] = runner.run(
        source,
        read("weights.npz", role),
        arguments,
        read("cotangents.npz", role),
        case["training"],
    )
    return made


def distance(expected: np.ndarray, obtained: np.ndarray) -> float:
    """Largest difference relative to the largest expected value; infinite for a lone NaN."""
    expected, obtained = np.asarray(expected, float), np.asarray(obtained, float)
    if expected.shape != obtained.shape:
        return float("inf")
    both = np.isfinite(expected) & np.isfinite(obtained)
    if np.any(~both & ~((expected == obtained) | (np.isnan(expected) & np.isnan(obtained)))):
        return float("inf")
    scale = np.max(np.abs(expected[both]), initial=0.0) or 1.0
    return float(np.max(np.abs(expected - obtained)[both], initial=0.0) / scale)


def main() -> int:
    """Print how far both are from the reference in float64; exit with 1 where the port is off."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    case = json.loads((HERE / "case.json").read_text(encoding="utf-8"))
    print(case["summary"])
    print()
    distances: dict[str, dict[str, float]] = {}
    for role in sorted(("reference", "port"), key=lambda role: case[role]["runner"] != "torch"):
        made = run(role, case)
        for name, expected in read("expected.npz", role).items():
            if name in made:
                distances.setdefault(name, {})[role] = distance(expected, made[name])
    off = False
    print(f"{'tensor':40} {'reference':>12} {'port':>12}   off the reference's float64 values")
    for name, found in distances.items():
        if "port" not in found:
            continue
        ours, theirs = found.get("reference", 0.0), found["port"]
        wrong = theirs > max(case["limit"], 8 * ours)
        off = off or wrong
        print(f"{name:40} {ours:12.2g} {theirs:12.2g}   {'<-- differs' if wrong else ''}")
    print()
    if not off:
        print(
            f"no difference beyond {case['limit']:.2g} shows in {case['dtype']} here; in float64 "
            f"the two differ by {case['gap']:.2g}"
        )
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
