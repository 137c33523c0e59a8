"""A side that keeps what it gives, pass by pass, as the index of golden traces holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.golden import intermediates, keys
from pytest_fwcompare.golden.intermediates import MOST, size_of
from pytest_fwcompare.golden.store import Writer

Refs = dict[str, str | None]
"""Places of arrays by name; None where the framework gave nothing."""


class Recorder:
    """What is known of a reference so far.

    Args:
        writer: of its files.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.passes: dict[str, dict[str, Any]] = {}
        self.jitters: dict[str, dict[str, float]] = {}
        self.weights: dict[str, Refs] = {}
        self.examples: list[dict[str, Any]] = []
        self.paused = False

    def refs(self, arrays: Mapping[str, Array | None]) -> Refs:
        """The arrays kept, by name."""
        return {
            name: None if value is None else self.writer.add(value)
            for name, value in arrays.items()
        }

    def blank(self, key: str) -> dict[str, Any]:
        """The entry of a pass, to be filled."""
        empty: dict[str, Any] = {name: {} for name in ("inputs", "parameters", "buffers")}
        return self.passes.setdefault(
            key,
            {"outputs": {}, "skipped": {}, "cotangents": None, **empty}
            | {"error": None, "recorded": None, "dropouts": []},
        )


class RecordingSide(Side):
    """A side whose passes are kept.

    Args:
        side: that runs.
        recorder: that keeps.
    """

    def __init__(self, side: Side, recorder: Recorder) -> None:
        self._side, self._recorder = side, recorder
        self._loaded: dict[str, str] = {}
        self._own = ""
        self.framework, self.role, self.model = side.framework, side.role, side.model
        self.shares_dropout = side.shares_dropout

    @property
    def leaks(self) -> list[str]:  # type: ignore[override]
        """Of the side that runs."""
        return self._side.leaks

    @property
    def rounded_constants(self) -> list[str]:  # type: ignore[override]
        """Of the side that runs."""
        return self._side.rounded_constants

    def parameters(self) -> list[Parameter]:
        return self._side.parameters()

    def read(self) -> dict[str, Array]:
        return self._side.read()

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        self._own = self._own or keys.of_own(self._side.read())
        self._side.load(values, precision)
        if not self._recorder.paused:
            self._loaded[precision] = keys.named(keys.of_arrays(values), self._own)

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        if self._recorder.paused:
            return self._side.forward(
                arguments, precision=precision, training=training, gradients=gradients
            )
        weights = self._loaded.get(precision, keys.OWN)
        entry = self._recorder.blank(
            keys.of_pass(weights, arguments, precision, training=training)
        )
        try:
            passed = self._side.forward(
                arguments,
                precision=precision,
                training=training,
                gradients=gradients,
                record=record,
            )
        except ModelError as error:
            entry["error"] = told(error)
            raise
        entry["outputs"] = self._recorder.refs(passed.outputs)
        entry["skipped"] = dict(passed.skipped)
        if training:
            entry["buffers"] = self._recorder.refs(passed.buffers())
            entry["dropouts"] = self._dropouts()
        return RecordingPass(passed, entry, self._recorder)

    def _dropouts(self) -> list[dict[str, Any]]:
        """What the dropouts of the pass that just ran were given: the port's get the same."""
        draws, add = current(), self._recorder.writer.add
        sites = {} if draws is None else draws.table.reference
        return [
            {
                "key": list(site.key),
                "value": add(site.value),
                "kept": site.kept,
                "uniform": add(site.uniform),
                "place": site.place,
            }
            for site in sites.values()
        ]

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        return self._side.stopwatch(arguments, cotangents)


class RecordingPass(Pass):
    """A pass whose gradients are kept.

    Args:
        passed: that was made.
        entry: of the pass, to be filled.
        recorder: that keeps.
    """

    def __init__(self, passed: Pass, entry: dict[str, Any], recorder: Recorder) -> None:
        self.outputs, self.skipped = passed.outputs, passed.skipped
        self._passed, self._entry, self._recorder = passed, entry, recorder

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        try:
            made = self._passed.backward(cotangents)
        except ModelError as error:
            self._entry["error"] = told(error)
            raise
        self._entry["cotangents"] = keys.of_arrays(cotangents)
        self._entry["inputs"] = self._recorder.refs(made.inputs)
        self._entry["parameters"] = self._recorder.refs(made.parameters)
        return made

    def buffers(self) -> dict[str, Array]:
        return self._passed.buffers()

    def recorded(self) -> list[Recorded]:
        found = self._passed.recorded()
        if size_of(found) <= MOST:
            self._entry["recorded"] = intermediates.encode(found, self._recorder.writer.add)
        return found


def told(error: ModelError) -> list[str]:
    """Stage and message of an error."""
    return [error.stage, str(error).removeprefix(f"{error.role}, {error.stage}: ")]
