"""Examines layers of a Keras model where it is, on whichever backend Keras has in this process.

Each layer runs on the value that reaches it, with its own weights: as it is, and by its documented
formula in raw operations of the backend. What NumPy and other backends of Keras say is asked
elsewhere, see `comparing.attribution`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.keras import calls
from pytest_fwcompare.backends.keras.alone import Alone
from pytest_fwcompare.backends.keras.calls import Call
from pytest_fwcompare.backends.keras.documented import Undocumented, documented
from pytest_fwcompare.backends.keras.examined import Examined, Formula, Job
from pytest_fwcompare.backends.keras.formula import run_formula
from pytest_fwcompare.backends.layer_trees import reading
from pytest_fwcompare.errors import FwcompareError

MOST = 20_000_000
"""Elements of inputs and weights up to which a formula is computed in NumPy."""

INPUTS = ("inputs", "value", "query")
"""Names of tensors that a call may hand over by name, so that there is a formula for it."""


def examine(
    side: Any,
    arguments: Sequence[Argument],
    paths: Sequence[str] | None,
    dtype: str,
    device: str,
    seed: int,
) -> list[Examined]:
    """What layers of a side's model give, each on the first value that reaches it.

    Args:
        side: of a Keras model, see `Examinable`, with the weights last loaded.
        arguments: of the model.
        paths: of layers; None: all of them.
        dtype: working dtype.
        device: as in `compare`.
        seed: of the cotangents.

    Returns:
        One for each layer that was called; then one for each path that leads to none of Keras.
    """
    model, on = side.keras_model, keras.backend.backend()
    found = {path: calls.find_layer(model, path) for path in paths or ()}
    chosen = list({id(one[1]): one for one in found.values() if one is not None}.values())
    if paths is None:
        chosen = calls.keras_layers(model)
    with calls.watched(chosen) as noted:
        if chosen:
            side.call_eagerly(arguments)
    if paths is not None:
        places = [path for path, _ in chosen]
        noted.sort(key=lambda call: places.index(call.path))
    made = [_examined(call, dtype, device, seed) for call in noted]
    lost = [path for path, one in found.items() if one is None]
    return made + [Examined(path, "", on, foreign=calls.why_none(model, path)) for path in lost]


def _examined(call: Call, dtype: str, device: str, seed: int) -> Examined:
    """One layer, and its formula in raw operations."""
    layer = call.layer
    made = Examined(call.path, call.kind, keras.backend.backend())
    if call.reason:
        return replace(made, own=replace(made.own, reason=call.reason))
    cotangents: dict[str, Any] = {}
    alone = Alone(layer, call.structure, call.weights, dtype, device)
    with alone:
        try:
            own = alone.run(call.tensors, cotangents, seed=seed)
        except FwcompareError as error:
            return replace(made, own=replace(made.own, reason=str(error)))
        made = replace(made, own=own, job=_job(call, cotangents))
        made = _document(made, call, dtype)
        if made.formula is None:
            made = replace(made, near=tuple(alone.near(call.tensors, cotangents)))
    return made


def _document(made: Examined, call: Call, dtype: str) -> Examined:
    """With the documented formula, run in raw operations of the backend."""
    kind, notes = calls.own_class(call.layer), made.notes
    if (other := calls.overrides(call.layer)) and kind:
        said = f"{other} is no class of Keras itself; it is held against the documentation of "
        notes = (*notes, f"{said}{kind}")
    try:
        formula = _formula(call, kind)
    except Undocumented as error:
        return replace(made, notes=(*notes, f"no documented formula to hold it against: {error}"))
    made = replace(made, documented=kind, formula=formula, notes=notes)
    if made.on == "numpy":  # the formula is run in NumPy anyhow
        return made
    job = made.job
    try:
        raw = run_formula(formula, made.on, job.tensors, job.weights, job.cotangents, dtype)
    except (FwcompareError, KeyError, AttributeError, NotImplementedError) as error:
        said = f"its formula could not be run in raw {made.on}: {type(error).__name__}: {error}"
        return replace(made, notes=(*made.notes, said))
    return replace(made, raw=raw)


def _formula(call: Call, kind: str) -> Formula:
    """The formula of a call; raises `Undocumented`."""
    size = sum(value.size for value in (*call.tensors, *call.weights))
    if size > MOST:
        raise Undocumented(f"{size:,} values are too many for NumPy")
    if left := [name for name in call.keywords if name not in INPUTS]:
        raise Undocumented(f"called with {', '.join(left)}")
    with reading():
        config = call.layer.get_config()
    found = documented(
        kind,
        config,
        [tensor.shape for tensor in call.tensors],
        [tensor.dtype.name for tensor in call.tensors],
        call.options,
    )
    stored = found.stored
    return Formula(
        found.network,
        tuple((calls.number_of(call.layer, where), names, how) for where, names, how in stored),
    )


def _job(call: Call, cotangents: dict[str, Any]) -> Job:
    """Plain data by which another process makes the layer and repeats its call."""
    job = Job("", (), call.structure, call.tensors, call.weights, cotangents)
    sources = {}
    for kind in {
        kind for _, one, _ in calls.layer_paths(call.layer) for kind in type(one).__mro__
    }:
        if kind.__module__.partition(".")[0] in ("keras", "builtins", "tensorflow", "torch",
                                                 "optree"):  # fmt: skip
            continue
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if "<locals>" in kind.__qualname__ or file is None:
            said = f"{kind.__qualname__} cannot be imported in another process"
            return replace(job, reason=said)
        sources[kind.__module__] = {"module": kind.__module__, "file": str(Path(file).resolve())}
    try:
        with reading():
            layer = json.dumps(keras.saving.serialize_keras_object(call.layer))
    except Exception as error:  # whatever the user's get_config raises
        said = f"{call.kind} cannot be written as configuration: {type(error).__name__}: {error}"
        return replace(job, reason=said)
    return replace(job, layer=layer, sources=tuple(sources[name] for name in sorted(sources)))
