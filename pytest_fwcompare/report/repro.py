"""Writes a folder that shows a difference without this package: script, weights, inputs."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.networks.graph import Network

if TYPE_CHECKING:
    from pytest_fwcompare.records import Comparison
    from pytest_fwcompare.running.pair import Pair
    from pytest_fwcompare.running.points import Point
    from pytest_fwcompare.weights.mapping import Link

Array = np.ndarray

RUNNERS = {"torch": "torch", "keras": "tensorflow", "tensorflow": "tensorflow", "jax": "jax"}
"""By framework, the folder of `backends` whose `standalone.py` runs it."""

FEWEST_ROUNDINGS = 64
"""Differences of fewer roundings are not called a difference by the script."""


def write_repro(
    folder: Path,
    comparison: Comparison,
    pair: Pair,
    point: Point,
    given: Mapping[str, Any],
    *,
    training: bool = False,
) -> None:
    """Write repro.py with its weights, inputs and expected values.

    Args:
        folder: where to; made if it is not there.
        comparison: what was found.
        pair: both sides, still open.
        point: the example that shows it.
        given: what the caller passed, by role.
        training: whether the difference shows in training mode alone.

    Raises:
        UsageError: a side can be made by this process only; says what to pass instead.
    """
    sources = {role: source_of(given[role], role, training) for role in ("reference", "port")}
    run = pair.run("reference", point, "double", training=training)
    pair.expect(run)
    pair.run("port", point, "double", training=training)
    if training and pair.masks is not None and pair.masks.table(point.rng_seed).asked:
        raise UsageError(
            "repro: the difference shows in training mode, with dropout, whose masks a script of "
            "its own cannot share between frameworks"
        )
    folder.mkdir(parents=True, exist_ok=True)
    roles: dict[str, Any] = {}
    arrays: dict[str, dict[str, Array]] = {
        name: {} for name in ("weights", "inputs", "cotangents", "expected")
    }
    for role in ("reference", "port"):
        opened = pair.reference if role == "reference" else pair.port
        made = Layout(pair, point, role)
        passed = pair.arguments(role, point.inputs)
        if sources[role]["kind"] == "exported":
            sources[role]["path"] = made.export(folder, passed)
        keyed = {**made.expected(run), **made.outputs(run.outputs, "output ")}
        for name, values in (
            ("weights", made.weights()),
            ("inputs", {a.name: _narrow(a.value, pair.dtype) for a in passed}),
            ("cotangents", made.outputs(point.cotangents) if pair.backward else {}),
            ("expected", keyed),
        ):
            arrays[name].update({f"{role}: {key}": value for key, value in values.items()})
        roles[role] = {
            "framework": opened.side.framework,
            "runner": RUNNERS.get(opened.side.framework, ""),
            "source": sources[role],
            "arguments": [(a.name, a.keyword) for a in passed],
        }
    case = {
        **roles,
        "training": training,
        "dtype": pair.dtype,
        "gap": comparison.gap,
        "limit": FEWEST_ROUNDINGS * unit_roundoff(pair.dtype),
        "summary": comparison.summary(),
    }
    for name, kept in arrays.items():
        np.savez(folder / f"{name}.npz", **kept)  # type: ignore[arg-type]
    (folder / "case.json").write_text(json.dumps(case, indent=1), encoding="utf-8")
    _copy_code(folder, {side["runner"] for side in roles.values()} - {""})


def _copy_code(folder: Path, runners: set[str]) -> None:
    here = Path(__file__).parent
    code = (here / "standalone.py").read_text(encoding="utf-8")
    (folder / "repro.py").write_text(code, encoding="utf-8")
    for runner in runners:
        code = (here.parent / "backends" / runner / "standalone.py").read_text(encoding="utf-8")
        (folder / f"run_{runner}.py").write_text(code, encoding="utf-8")


def _narrow(value: Array, dtype: str) -> Array:
    """Inputs in the dtype that the script passes them in."""
    if value.dtype.kind != "f":
        return value
    return value.astype("float32" if dtype == "bfloat16" else dtype)


def source_of(given: Any, role: str, training: bool = False) -> dict[str, Any]:
    """How a script of its own can make this side again.

    Raises:
        UsageError: it cannot.
    """
    from pytest_fwcompare.sides import InFramework

    if isinstance(given, Network):
        given = InFramework(given, "numpy")
    if isinstance(given, InFramework):
        if given.framework == "numpy":
            return {"kind": "values"}
        if training:
            raise UsageError(
                f"repro: the {role} is a described network, which is exported in inference mode; "
                f"this difference shows in training mode only"
            )
        return {"kind": "exported"}
    name, module = getattr(given, "__qualname__", ""), getattr(given, "__module__", "")
    try:
        file = inspect.getsourcefile(given)
    except TypeError:
        file = None
    if not name or not callable(given) or "<" in name or file is None:
        what = name or type(given).__name__
        raise UsageError(
            f"repro: the {role} ({what}) cannot be made again by another process. Pass a function "
            f"defined at the top of a module that takes no arguments and returns the model"
        )
    path = Path(file).resolve()
    parts = module.split(".")
    stem = [*path.parts[:-1], path.stem]
    package = len(parts) > 1 and stem[-len(parts) :] == parts and module in sys.modules
    root = str(path.parents[len(parts) - 1]) if package else ""
    return {"kind": "factory", "module": module, "name": name, "file": str(path), "root": root}


class Layout:
    """Names and axis orders that a script sees of one side.

    Args:
        pair: both sides.
        point: the example.
        role: "reference" or "port".
    """

    def __init__(self, pair: Pair, point: Point, role: str) -> None:
        self.pair, self.point, self.role = pair, point, role
        self.opened = pair.reference if role == "reference" else pair.port

    def weights(self) -> dict[str, Array]:
        """Values in the working dtype, by the script's key of the parameter."""
        pair, point = self.pair, self.point
        if point.weights is None or pair.mapping is None:
            values = self.opened.side.read()
        elif self.role == "reference":
            values = dict(point.weights)
        else:
            values = pair.mapping.port_values(point.weights)
        keys = self.keys()
        return {keys[n]: _narrow(v, pair.dtype) for n, v in values.items() if n in keys}

    def keys(self) -> dict[str, str]:
        """The script's keys by parameter name; none where it loads no weights."""
        framework = self.opened.side.framework
        if framework not in RUNNERS:
            return {name: name for name in self.pair.reference_parameters}
        module = import_module(f"pytest_fwcompare.backends.{RUNNERS[framework]}.repro")
        keys: dict[str, str] = module.keys(self.opened.side)
        return keys

    def export(self, folder: Path, passed: Any) -> str:
        """Write the native network with the point's weights; gives the name of its file."""
        pair, side = self.pair, self.opened.side
        pair.run(self.role, self.point, "working", backward=False)  # loads the weights
        module = import_module(f"pytest_fwcompare.backends.{RUNNERS[side.framework]}.repro")
        name: str = module.export(side, passed, folder, self.role)
        return name

    def outputs(self, values: Mapping[str, Array], prefix: str = "") -> dict[str, Array]:
        """Values by output in this side's axes, named by the place of the output."""
        made = {}
        for place, (name, value) in enumerate(values.items()):
            where, axes = self.pair.output_layout(self.role, name)
            if where is None:
                where = place
            made[f"{prefix}{where}"] = value if axes is None else value.transpose(axes)
        return made

    def expected(self, run: Any) -> dict[str, Array]:
        """The reference's float64 gradients and buffers in this side's layout."""
        pair, keys, made = self.pair, self.keys(), {}
        for title, value in run.inputs.items():
            name = title.removeprefix("gradient of input ")
            spec = pair.plan.layouts.get(name)
            axes = spec.to_port if spec is not None and self.role == "port" else None
            axes = axes or self.opened.input_axes.get(name)
            made[f"input {name}"] = value if axes is None else value.transpose(axes)
        gradients = {n.removeprefix("gradient of "): v for n, v in run.parameters.items()}
        buffers = {n.removeprefix("buffer "): v for n, v in run.buffers.items()}
        for kind, values in (("parameter", gradients), ("buffer", buffers)):
            for name, value in self._native(values).items():
                if name in keys:
                    made[f"{kind} {keys[name]}"] = value
        return made

    def _native(self, values: dict[str, Array]) -> dict[str, Array]:
        """Gradients or buffers by this side's names; only those that are rearranged whole."""
        if self.role == "reference":
            return values
        mapping = self.pair.mapping
        if mapping is None:
            return {}
        alone = [link for link in mapping.links if is_whole(link, values)]
        return {link.port: link.transform.apply(values[link.sources[0]]) for link in alone}


def is_whole(link: Link, values: Mapping[str, Array]) -> bool:
    """Whether a parameter of the port is one of the reference's with its elements rearranged."""
    if len(link.sources) != 1 or link.sources[0] not in values:
        return False
    shape = values[link.sources[0]].shape
    probe = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    made = link.transform.apply(probe)
    return made.size == probe.size and bool(
        np.array_equal(np.sort(made, axis=None), probe.ravel())
    )
