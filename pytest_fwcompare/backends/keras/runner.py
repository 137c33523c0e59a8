"""Runs single layers on whatever backend Keras has in this process: one job, then it ends.

    KERAS_BACKEND=torch python -m pytest_fwcompare.backends.keras.runner FOLDER

FOLDER has `job.json` and `arrays.npz` and gets `answer.json` and `answers.npz`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


def packed(structure: Any, tensors: Sequence[Any]) -> Any:
    """Arguments of a call from their plain structure, tensors put in by number."""
    if isinstance(structure, dict) and set(structure) == {"tensor"}:
        return tensors[structure["tensor"]]
    if isinstance(structure, dict) and set(structure) == {"value"}:
        return structure["value"]
    if isinstance(structure, dict) and set(structure) == {"tuple"}:
        return tuple(packed(item, tensors) for item in structure["tuple"])
    if isinstance(structure, dict):
        return {key: packed(item, tensors) for key, item in structure["dict"].items()}
    return [packed(item, tensors) for item in structure]


def in_dtype(config: Any, dtype: str) -> Any:
    """A layer's configuration with every float policy in it replaced."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and "config" in config:
            return dtype
        return {
            key: dtype if key == "dtype" and str(item).startswith(("float", "bfloat"))
            else in_dtype(item, dtype)
            for key, item in config.items()
        }  # fmt: skip
    if isinstance(config, (list, tuple)):
        return [in_dtype(item, dtype) for item in config]
    return config


def import_sources(sources: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Import modules by name, or else from their files; the classes in them by name."""
    found: dict[str, Any] = {}
    for source in sources:
        try:
            module = importlib.import_module(source["module"])
        except ImportError:
            spec = importlib.util.spec_from_file_location(source["module"], source["file"])
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[source["module"]] = module
            spec.loader.exec_module(module)
        found |= {n: v for n, v in vars(module).items() if isinstance(v, type)}
    return found


def run_layer(job: Mapping[str, Any], arrays: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Outputs and, where the backend has them, gradients of one layer.

    Args:
        job: "layer" (as `keras.saving.serialize_keras_object` writes it), "call", "inputs",
            "weights", "cotangents" (numbers of arrays), "sources".
        arrays: "input 0", "weight 0", "cotangent 0", ...
        dtype: to compute in.

    Returns:
        "output 0", ..., "gradient input 0", ..., "gradient weight 0", ...
    """
    import keras

    keras.config.set_floatx(dtype)
    custom = import_sources(job["sources"])
    config = in_dtype(job["layer"], dtype)
    layer = keras.saving.deserialize_keras_object(config, custom_objects=custom, safe_mode=False)
    inputs = [_cast(arrays[f"input {n}"], dtype) for n in range(job["inputs"])]
    args, kwargs = packed(job["call"], [keras.ops.convert_to_tensor(value) for value in inputs])
    layer(*args, **kwargs)
    weights = [_cast(arrays[f"weight {n}"], dtype) for n in range(job["weights"])]
    if [tuple(w.shape) for w in layer.weights] != [w.shape for w in weights]:
        raise ValueError("the layer has other weights here than where it comes from")
    layer.set_weights(weights)
    if keras.backend.backend() == "numpy":
        # Its variables start, and stay, in float32 whatever their dtype says.
        for variable, value in zip(layer.weights, weights, strict=True):
            variable._value = value
    cotangents = [_cast(arrays[f"cotangent {n}"], dtype) for n in range(job["cotangents"])]
    return RUNS[keras.backend.backend()](layer, job["call"], inputs, cotangents)


def _cast(value: Array, dtype: str) -> Array:
    return value.astype(dtype) if value.dtype.kind == "f" else value


def _named(
    outputs: Sequence[Any], inputs: Mapping[int, Any], weights: Mapping[int, Any]
) -> dict[str, Array]:
    made = {f"output {n}": np.asarray(value) for n, value in enumerate(outputs)}
    made |= {f"gradient input {n}": np.asarray(value) for n, value in inputs.items()}
    return made | {f"gradient weight {n}": np.asarray(value) for n, value in weights.items()}


def _numpy(
    layer: Any, call: Any, inputs: Sequence[Array], cotangents: Sequence[Array]
) -> dict[str, Array]:
    """Forward only."""
    import keras

    args, kwargs = packed(call, inputs)
    return _named(keras.tree.flatten(layer(*args, **kwargs)), {}, {})


def _torch(
    layer: Any, call: Any, inputs: Sequence[Array], cotangents: Sequence[Array]
) -> dict[str, Array]:
    import keras
    import torch

    tensors = [torch.from_numpy(np.array(value)) for value in inputs]
    floats = {n: t.requires_grad_() for n, t in enumerate(tensors) if t.is_floating_point()}
    places = {n: w.value for n, w in enumerate(layer.weights) if w.trainable}
    args, kwargs = packed(call, tensors)
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    kept = [(o, torch.from_numpy(c)) for o, c in zip(outputs, cotangents, strict=False)
            if o.requires_grad]  # fmt: skip
    sources = [*floats.values(), *places.values()]
    found = torch.autograd.grad(
        [o for o, _ in kept], sources, [c for _, c in kept], allow_unused=True
    )
    values = [
        np.zeros(tuple(s.shape)) if g is None else g.detach().numpy()
        for s, g in zip(sources, found, strict=True)
    ]
    return _named(
        [output.detach().numpy() for output in outputs],
        dict(zip(floats, values, strict=False)),
        dict(zip(places, values[len(floats) :], strict=True)),
    )


def _jax(
    layer: Any, call: Any, inputs: Sequence[Array], cotangents: Sequence[Array]
) -> dict[str, Array]:
    import jax
    import keras

    places = {id(w): n for n, w in enumerate(layer.weights)}
    floats = [n for n, value in enumerate(inputs) if value.dtype.kind == "f"]
    trainable = [v.value for v in layer.trainable_variables]
    fixed = [v.value for v in layer.non_trainable_variables]

    def function(variables: Any, values: Any) -> Any:
        given = dict(zip(floats, values, strict=True))
        args, kwargs = packed(call, [given.get(n, value) for n, value in enumerate(inputs)])
        made, _ = layer.stateless_call(variables, fixed, *args, **kwargs)
        return keras.tree.flatten(made)

    outputs, pull = jax.vjp(function, trainable, [inputs[n] for n in floats])
    by_weight, by_input = pull(list(cotangents))
    return _named(
        outputs,
        dict(zip(floats, by_input, strict=True)),
        {
            places[id(v)]: g
            for v, g in zip(layer.trainable_variables, by_weight, strict=True)
            if id(v) in places
        },
    )


RUNS: dict[str, Callable[..., dict[str, Array]]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
}


def run_dtypes(
    job: Mapping[str, Any], arrays: Mapping[str, Array], working: str
) -> tuple[dict[str, Array], str]:
    """What a layer gives in float64 and in the working dtype, or why it gives nothing.

    A backend that cannot compute in float64 is asked for float32 in its place.
    """
    found: dict[str, dict[str, Array]] = {}
    reason = ""
    for dtype in dict.fromkeys(("float64", working)):
        try:
            found[dtype] = run_layer(job, arrays, dtype)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:500]
    if working not in found:
        return {}, reason
    found.setdefault("float64", found[working])
    made = {
        f"{dtype} {name}": value
        for dtype, values in found.items()
        for name, value in values.items()
    }
    return made, ""


def main(folder: str) -> None:
    """Do the jobs of a folder."""
    place = Path(folder)
    jobs = json.loads((place / "job.json").read_text())
    sys.path[:0] = [path for path in jobs["path"] if path not in sys.path]
    with np.load(place / "arrays.npz") as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    made: dict[str, Array] = {}
    reasons: dict[str, str] = {}
    for number, job in enumerate(jobs["layers"]):
        if job is None:
            continue
        mine = {
            name.removeprefix(f"{number} "): value
            for name, value in arrays.items()
            if name.startswith(f"{number} ")
        }
        found, reason = run_dtypes(job, mine, jobs["dtype"])
        made |= {f"{number} {name}": value for name, value in found.items()}
        if reason:
            reasons[str(number)] = reason
    np.savez(place / "answers.npz", **made)  # type: ignore[arg-type]
    partial = place / "answer.json.part"
    partial.write_text(json.dumps(reasons))
    partial.replace(place / "answer.json")


if __name__ == "__main__":
    main(sys.argv[1])
