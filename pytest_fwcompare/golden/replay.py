"""A reference that answers from its golden traces: its framework is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Backend,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.comparing.request import Request
from pytest_fwcompare.dropout import Site, current
from pytest_fwcompare.dropout.masks import Key
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.golden import keys
from pytest_fwcompare.golden.intermediates import decode
from pytest_fwcompare.golden.store import GoldenError, Reader
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.inputs.values import Draw
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point
from pytest_fwcompare.sides import Opened


class GoldenReference:
    """A recorded reference, to be passed to `compare` in place of the model.

    Args:
        folder: of one case, as `--fwcompare-record` wrote it.

    Raises:
        GoldenError: it is none, it is damaged, or a newer version wrote it.
    """

    def __init__(self, folder: Path | str) -> None:
        self.reader = Reader(Path(folder))

    @property
    def case(self) -> str:
        """What was recorded."""
        return str(self.reader.index["case"])

    @property
    def framework(self) -> str:
        """The one that gave the traces."""
        return str(self.reader.index["framework"])

    def opened(self) -> Opened:
        """The side, with its layout."""
        index = self.reader.index
        return Opened(
            GoldenSide(self.reader),
            GoldenBackend(self.reader),
            input_axes=_axes(index["input_axes"]),
            output_axes=_axes(index["output_axes"]),
            notices=(
                *index["notices"],
                f"the {index['framework']} reference was replayed from golden traces",
            ),
        )

    def adapted(self, request: Request) -> Request:
        """A request for what was recorded: its examples, and nothing else.

        Raises:
            GoldenError: something is asked for that was not recorded.
        """
        index = self.reader.index
        shared = request.weights != "given"
        for word, asked, there in (
            ("inputs", list(request.plan.order), index["order"]),
            ("dtype", request.dtype, index["dtype"]),
            ("seed", request.seed, index["seed"]),
            ('weights="given"', not shared, not index["shared"]),
        ):
            if asked != there:
                raise GoldenError(
                    f"golden traces {self.reader.folder}: recorded with {word} {there!r}, the "
                    f"test has {asked!r}; record them anew"
                )
        if missing := [check for check in request.checks if check not in index["checks"]]:
            raise GoldenError(
                f"golden traces {self.reader.folder}: recorded without the check {missing[0]!r}; "
                f"record them anew"
            )
        if callable(request.weights):
            raise GoldenError(
                "golden traces: weights is a function that copies from the reference's model, "
                "which a replay does not have; say weights={port name: reference name}"
            )
        plan = GoldenPlan(
            **{**vars(request.plan), "searched": {}, "given": {}},
            examples=tuple(self._examples()),
        )
        return replace(
            request,
            plan=plan,
            deterministic=True,
            timings=False,
            distributions=False,
            repro=None,
            examples=min(request.examples, len(plan.examples)),
        )

    def _examples(self) -> Iterator[Example]:
        for kept in self.reader.index["examples"]:
            draws = {
                name: Draw(d["pattern"], float(d["scale"]), d["seed"], tuple(d["special"]))
                for name, d in kept["draws"].items()
            }
            yield GoldenExample(
                sizes=tuple(kept["sizes"].items()),
                draws=tuple(draws.items()),
                arrays=tuple((n, self._array(ref)) for n, ref in kept["arrays"].items()),
                weights=kept["weights"],
                weights_seed=kept["weights_seed"],
                told=kept["told"],
            )

    def _array(self, ref: str | None) -> Array:
        if ref is None:
            raise GoldenError(f"golden traces {self.reader.folder}: an input has no values")
        return self.reader.get(ref)


def _axes(kept: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(axes) for name, axes in kept.items()}


@dataclass(frozen=True)
class GoldenExample(Example):
    """An example as it was recorded.

    Attributes:
        told: how it was drawn.
    """

    told: str = ""

    def __str__(self) -> str:
        return self.told


@dataclass(frozen=True)
class GoldenPlan(Plan):
    """The recorded examples in their order; no other can be run."""

    examples: tuple[Example, ...] = ()

    def planned(self, count: int) -> Iterator[Example]:
        yield from self.examples[:count]

    def simpler(self, example: Example) -> Iterator[Example]:
        return iter(())


class GoldenBackend(Backend):
    """Stands for the framework of a recorded reference."""

    name = "golden"
    distribution = "safetensors"
    imports = ("safetensors",)

    def __init__(self, reader: Reader) -> None:
        self._index = reader.index

    def version(self) -> str:
        return str(self._index["environment"].get("version", "unknown"))

    def owns(self, model: object) -> bool:
        return isinstance(model, GoldenReference)

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        return GoldenSide(model.reader)

    def environment(self) -> dict[str, Any]:
        """The facts of the recording."""
        return {**self._index["environment"], "replayed": True}


class GoldenSide(Side):
    """Answers what was recorded, and nothing else. See `Side`."""

    model = None

    def __init__(self, reader: Reader) -> None:
        self._reader, index = reader, reader.index
        self.framework, self.role = index["framework"], "reference"
        self.leaks, self.rounded_constants = index["leaks"], index["rounded_constants"]
        self.shares_dropout = index["shares_dropout"]
        self._loaded: dict[str, str] = {}
        self._parameters = [_parameter(plain) for plain in index["parameters"]]
        self._given = self._arrays(index["given"], "the given weights")
        self._own = keys.of_own(self._given)
        for parameter in self._parameters:
            held = self._given.get(parameter.name)
            if held is None or held.shape != parameter.shape:
                raise GoldenError(
                    f"golden traces {reader.folder}: parameter {parameter.name!r} should have the "
                    f"shape {parameter.shape}, it has {None if held is None else held.shape}"
                )

    def parameters(self) -> list[Parameter]:
        return list(self._parameters)

    def read(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self._given.items()}

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        self._loaded[precision] = keys.named(keys.of_arrays(values), self._own)

    def drawn(self, name: str, seed: int) -> Array | None:
        return self._optional(self._reader.index["weights"].get(str(seed), {}).get(name))

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        weights = self._loaded.get(precision, keys.OWN)
        key = keys.of_pass(weights, arguments, precision, training=training)
        kept = self._reader.index["passes"].get(key)
        if kept is None:
            raise missing("pass", self._reader)
        if kept["error"] is not None:
            raise ModelError(self.role, *kept["error"][:2])
        if record and kept["recorded"] is None:
            raise ModelError(
                self.role,
                "record",
                "golden traces hold no intermediate tensors of this example; run with the "
                "reference's framework to learn where and why",
            )
        draws = current()
        if draws is not None and draws.decides:
            draws.table.reference = self._dropouts(kept)
        return GoldenPass(self, kept)

    def _dropouts(self, kept: Mapping[str, Any]) -> dict[Key, Site]:
        """What the dropouts of a recorded pass were given, for the port's to be given the same."""
        found = {}
        for entry in kept["dropouts"]:
            key = (*entry["key"], 0, 0)[:2]
            value, uniform = (self._reader.get(entry[name]) for name in ("value", "uniform"))
            found[key] = Site(key, value, float(entry["kept"]), uniform, entry["place"])
        return found

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        raise UsageError("golden traces cannot be timed")

    def _arrays(self, kept: Mapping[str, str | None], what: str) -> dict[str, Array]:
        made = {name: self._optional(ref) for name, ref in kept.items()}
        for name, value in made.items():
            if value is None:
                raise GoldenError(
                    f"golden traces {self._reader.folder}: {what}: {name!r} has no values"
                )
        return {name: value for name, value in made.items() if value is not None}

    def _optional(self, ref: str | None) -> Array | None:
        return None if ref is None else self._reader.get(ref)

    def jitter(self, point: Point, draws: int, *, training: bool) -> dict[str, float]:
        """The jitter that was drawn at a point.

        Raises:
            GoldenError: none was.
        """
        key = keys.of_jitter(point, draws, training=training)
        kept = self._reader.index["jitters"].get(key)
        if kept is None:
            raise missing("jitter", self._reader)
        return {name: float(spread) for name, spread in kept.items()}


class GoldenPass(Pass):
    """A recorded pass. See `Pass`."""

    def __init__(self, side: GoldenSide, kept: Mapping[str, Any]) -> None:
        self._side, self._kept, self._went_back = side, kept, False
        self.outputs = side._arrays(kept["outputs"], "an output")
        self.skipped = dict(kept["skipped"])

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        if self._kept["cotangents"] != keys.of_arrays(cotangents):
            raise missing("gradients", self._side._reader)
        self._went_back = True
        optional = self._side._optional
        return Gradients(
            {name: optional(ref) for name, ref in self._kept["inputs"].items()},
            {name: optional(ref) for name, ref in self._kept["parameters"].items()},
        )

    def buffers(self) -> dict[str, Array]:
        return self._side._arrays(self._kept["buffers"], "a buffer")

    def recorded(self) -> list[Recorded]:
        # One object for one array: an argument is known as another one's value by its identity.
        get = cache(self._side._reader.get)
        return list(decode(self._kept["recorded"] or (), get, gradients=self._went_back))


def missing(what: str, reader: Reader) -> GoldenError:
    """The error for something that was asked for and not recorded.

    No `ModelError`: the reference did not fail, and no example may be left out for it.
    """
    now, then = np.__version__, reader.index["numpy"]
    why = "the test asks for something else than when they were recorded"
    if then != now:
        why = f"NumPy {then} drew the random numbers, this is {now}"
    return GoldenError(f"golden traces {reader.folder}: no such {what}: {why}; record them anew")


def _parameter(plain: Mapping[str, Any]) -> Parameter:
    return Parameter(
        **{
            **plain,
            "shape": tuple(plain["shape"]),
            "aliases": tuple(plain["aliases"]),
            "options": {name: _tuples(value) for name, value in plain["options"].items()},
        }
    )


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class GoldenPair(Pair):
    """A pair whose reference is recorded."""

    def known_jitter(self, point: Point, draws: int, training: bool) -> dict[str, float] | None:
        side = self.reference.side
        assert isinstance(side, GoldenSide)
        return side.jitter(point, draws, training=training)
