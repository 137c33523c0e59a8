"""Runs a layer of another process on the backend that Keras has in this one."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from pytest_fwcompare.backends.keras.alone import Alone, packed
from pytest_fwcompare.backends.keras.examined import Job, Ran

DTYPE = "float32"
"""In which layers are asked here: the one dtype that every backend of Keras has."""


def run_job(job: Job) -> Ran:
    """What the layer gives here; a `Ran` with the reason where it gives nothing."""
    try:
        custom = import_sources(job.sources)
        config = in_dtype(json.loads(job.layer), DTYPE)
        layer = keras.saving.deserialize_keras_object(
            config, custom_objects=custom, safe_mode=False
        )
        inputs = [v.astype(DTYPE) if v.dtype.kind == "f" else v for v in job.tensors]
        if not all(part.built for part in layer._flatten_layers()):
            args, kwargs = packed(job.structure, [keras.ops.convert_to_tensor(v) for v in inputs])
            layer(*args, **kwargs)
        if [tuple(w.shape) for w in layer.weights] != [w.shape for w in job.weights]:
            raise ValueError("the layer has other weights here than where it comes from")
        with Alone(layer, job.structure, job.weights, DTYPE, "cpu") as alone:
            return alone.run(job.tensors, dict(job.cotangents))
    except Exception as error:  # whatever a layer does on a backend that it was not made for
        return Ran(reason=f"{type(error).__name__}: {error}"[:500])


def in_dtype(config: Any, dtype: str) -> Any:
    """A layer's configuration with every float policy in it replaced."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and "config" in config:
            return dtype
        return {
            key: dtype if key == "dtype" and str(item).startswith(("float", "bfloat", "mixed"))
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
        module = None
        with contextlib.suppress(ImportError):
            module = importlib.import_module(source["module"])
        there = Path(getattr(module, "__file__", None) or "").resolve()
        if module is None or there != Path(source["file"]):
            # Test files are often imported by their path, under names that others have, too.
            spec = importlib.util.spec_from_file_location(source["module"], source["file"])
            if spec is None or spec.loader is None or not Path(source["file"]).is_file():
                raise ImportError(f"no module {source['module']!r}, and no file {source['file']}")
            module = importlib.util.module_from_spec(spec)
            sys.modules[source["module"]] = module
            spec.loader.exec_module(module)
        found |= {n: v for n, v in vars(module).items() if isinstance(v, type)}
    return found
