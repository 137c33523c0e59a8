"""Asks Keras on its other backends, each in its own process: a backend is fixed at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.keras.calls import Call, array_of, layer_paths

TIMEOUT_S = 180.0
"""Seconds for all jobs of one backend, the imports included."""

NEEDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax", "numpy": "numpy"}
"""What each backend of Keras needs to be installed."""


def installed() -> tuple[str, ...]:
    """Keras' other backends that can be used here."""
    present = keras.backend.backend()
    return tuple(
        n for n, module in NEEDS.items() if n != present and find_spec(module) is not None
    )


def ask(
    backends: Sequence[str],
    calls: Sequence[Call],
    cotangents: Sequence[Mapping[str, Array]],
    dtype: str,
) -> dict[str, list[dict[str, Array] | str]]:
    """Run layers on other backends, all backends at once.

    Args:
        backends: of Keras.
        calls: what to run.
        cotangents: by output, one mapping a call.
        dtype: working dtype, beside float64.

    Returns:
        For each backend what each call gave, as `runner.run_layer` names it with the dtype before
        it, or the reason why it gave nothing.
    """
    jobs: list[dict[str, Any] | str] = [
        _job(call, made) for call, made in zip(calls, cotangents, strict=True)
    ]
    arrays: dict[str, Array] = {}
    for number, (call, made) in enumerate(zip(calls, cotangents, strict=True)):
        kept = {f"input {n}": value for n, value in enumerate(call.tensors)}
        kept |= {f"weight {n}": array_of(w.value) for n, w in enumerate(call.layer.weights)}
        kept |= {name.replace("output", "cotangent"): value for name, value in made.items()}
        arrays |= {f"{number} {name}": value for name, value in kept.items()}
    started = {}
    found: dict[str, list[dict[str, Array] | str]] = {}
    with tempfile.TemporaryDirectory(prefix="fwcompare-") as folder:
        for backend in backends:
            place = Path(folder) / backend
            place.mkdir()
            _write(place, jobs, arrays, dtype)
            started[backend] = _start(backend, place)
        for backend, process in started.items():
            found[backend] = _answers(process, Path(folder) / backend, jobs)
    return found


def _job(call: Call, cotangents: Mapping[str, Array]) -> dict[str, Any] | str:
    """Plain data by which another process makes the layer, or why it cannot."""
    kinds = {kind for _, layer, _ in layer_paths(call.layer) for kind in type(layer).__mro__}
    sources = {}
    for kind in kinds:
        if kind.__module__.partition(".")[0] in ("keras", "builtins", "tensorflow", "optree"):
            continue
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if "<locals>" in kind.__qualname__ or file is None:
            return f"{kind.__qualname__} cannot be imported in another process"
        sources[kind.__module__] = {"module": kind.__module__, "file": str(Path(file).resolve())}
    try:
        layer = keras.saving.serialize_keras_object(call.layer)
        json.dumps(layer)
    except Exception as error:  # whatever the user's get_config raises
        return f"{call.kind} cannot be written as configuration: {type(error).__name__}: {error}"
    return {
        "layer": layer,
        "call": call.structure,
        "inputs": len(call.tensors),
        "weights": len(call.layer.weights),
        "cotangents": len(cotangents),
        "sources": list(sources.values()),
    }


def _write(place: Path, jobs: Sequence[Any], arrays: Mapping[str, Array], dtype: str) -> None:
    plain = [job if isinstance(job, dict) else None for job in jobs]
    data = {"layers": plain, "dtype": dtype, "path": [path for path in sys.path if path]}
    (place / "job.json").write_text(json.dumps(data))
    np.savez(place / "arrays.npz", **arrays)  # type: ignore[arg-type]


def _start(backend: str, place: Path) -> subprocess.Popen[str]:
    paths = [path for path in sys.path if path]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with (place / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest_fwcompare.backends.keras.runner", str(place)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _answers(
    process: subprocess.Popen[str], place: Path, jobs: Sequence[dict[str, Any] | str]
) -> list[dict[str, Array] | str]:
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return [f"it gave no answer within {TIMEOUT_S:.0f} s"] * len(jobs)
    if not (place / "answer.json").exists():
        lines = (place / "said.txt").read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"it ended with status {process.returncode}"
        return [f"its process failed: {last}"] * len(jobs)
    reasons = json.loads((place / "answer.json").read_text())
    with np.load(place / "answers.npz") as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    made: list[dict[str, Array] | str] = []
    for number, job in enumerate(jobs):
        if isinstance(job, str):
            made.append(job)
        elif str(number) in reasons:
            made.append(reasons[str(number)])
        else:
            start = f"{number} "
            made.append(
                {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
            )
    return made
