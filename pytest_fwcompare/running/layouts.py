"""Which output of the port is which of the reference's, and in what order its axes are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations

import numpy as np

from pytest_fwcompare.backends.base import Array, Pass
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.running.outputs import StructureError, pair_outputs
from pytest_fwcompare.sides import Opened

Axes = tuple[int, ...]


class Layouts:
    """Outputs of both sides in the reference's names and axes; learnt from their first runs.

    Args:
        reference, port: the opened sides.
        specs: specs of the inputs, whose axis orders are likely those of outputs too.
        outputs: axis letters of outputs, where they differ.
        notices: where to say what was taken by shape alone, or left out.
    """

    def __init__(
        self,
        reference: Opened,
        port: Opened,
        specs: Iterable[TensorSpec],
        outputs: Mapping[str, TensorSpec] | None,
        notices: dict[str, None],
    ) -> None:
        self.reference, self.port = reference, port
        self.outputs, self.notices = outputs or {}, notices
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._likely = [spec.to_port for spec in specs if spec.to_port is not None]
        self._names: dict[str, str] | None = None
        self._skipped: Mapping[str, str] = {}
        self._axes: dict[str, Axes | None] = {}
        self._order: dict[str, int] = {}

    def expect(self, outputs: Mapping[str, Array]) -> None:
        """Hold the port's next outputs against the shapes of these of the reference."""
        self.shapes = {name: (value.shape, value.dtype.kind) for name, value in outputs.items()}

    def of_reference(self, passed: Pass) -> dict[str, Array]:
        """The reference's outputs that are compared."""
        self._skipped = passed.skipped
        made = {}
        for name, value in passed.outputs.items():
            if self._is_paired("reference", name):
                axes = self.reference.output_axes.get(name)
                made[name] = value if axes is None else value.transpose(np.argsort(axes))
        return made

    def of_port(self, passed: Pass) -> dict[str, Array]:
        """The port's outputs by the reference's names, in the reference's axes.

        Raises:
            StructureError: one is missing, of another kind, or of a shape that no order of axes
                explains.
        """
        self._order = {name: place for place, name in enumerate(passed.outputs)}
        if self._names is None:
            self._names, left_out = pair_outputs(
                list(self.shapes), list(passed.outputs), self._skipped, passed.skipped
            )
            self.notices.update(dict.fromkeys(left_out))
        made = {}
        for name, theirs in self._names.items():
            if theirs not in passed.outputs:
                raise StructureError(
                    f"the port gave no output {theirs!r} this time; it gave "
                    f"{', '.join(passed.outputs)}"
                )
            value = passed.outputs[theirs]
            shape, kind = self.shapes[name]
            if (value.dtype.kind == "f") != (kind == "f"):
                raise StructureError(
                    f"output {name!r}: the reference gives {_kind_word(kind)}, the port "
                    f"{_kind_word(value.dtype.kind)}"
                )
            axes = self._find_axes(name, theirs, shape, value.shape)
            self._axes[name] = axes
            made[name] = value if axes is None else value.transpose(np.argsort(axes))
        return made

    def native(
        self, role: str, passed: Pass, values: Mapping[str, Array]
    ) -> Iterator[tuple[str, Array]]:
        """Values for a side's compared float outputs, by its names and in its axes.

        Args:
            role: "reference" or "port".
            passed: a pass of that side.
            values: by the reference's name, in the reference's axes.
        """
        for name, value in passed.outputs.items():
            if value.dtype.kind != "f" or not self._is_paired(role, name):
                continue
            ours = name if role == "reference" else self._reference_name(name)
            known = self.reference.output_axes if role == "reference" else self._axes
            axes = known.get(ours)
            yield name, values[ours] if axes is None else values[ours].transpose(axes)

    def place(self, role: str, name: str) -> tuple[int | None, Axes | None]:
        """Place of an output among a side's own, and the axes that turn the reference's into it.

        Args:
            role: "reference" or "port".
            name: of the output, the reference's.
        """
        if role == "reference":
            return None, self.reference.output_axes.get(name)
        theirs = (self._names or {}).get(name, name)
        return self._order.get(theirs), self._axes.get(name)

    def _is_paired(self, role: str, name: str) -> bool:
        """Whether an output is compared; all of them as long as the port has not run."""
        if self._names is None:
            return True
        return name in (self._names if role == "reference" else self._names.values())

    def _reference_name(self, port_name: str) -> str:
        assert self._names is not None
        return next(ours for ours, theirs in self._names.items() if theirs == port_name)

    def _declared(self, name: str, theirs: str) -> TensorSpec | None:
        """What the caller said of an output: by either name, or by its place."""
        spec = self.outputs.get(name) or self.outputs.get(theirs)
        names = self._names or {}
        if spec is None and self.outputs and len(self.outputs) == len(names):
            spec = list(self.outputs.values())[list(names).index(name)]
        return spec

    def _find_axes(
        self, name: str, theirs: str, shape: tuple[int, ...], native: tuple[int, ...]
    ) -> Axes | None:
        """Permutation from the reference's axes of an output to the port's."""
        spec = self._declared(name, theirs)
        declared = spec.to_port if spec is not None else self.port.output_axes.get(theirs)
        if declared is not None:
            if len(declared) == len(shape) and tuple(shape[i] for i in declared) == native:
                return declared
            raise StructureError(
                f"output {name!r}: the reference gives {shape}, the port {native}, which the "
                f"axes {declared} do not turn into each other"
            )
        if shape == native and (spec is not None or self._axes.get(name) is None):
            return None
        known = self._axes.get(name)
        if known is not None and tuple(shape[i] for i in known) == native:
            return known
        found = self._guess_axes(shape, native)
        if found is None:
            raise StructureError(
                f"output {name!r}: the reference gives shape {shape}, the port {native}. If only "
                f"the order of axes differs, say outputs={{{name!r}: TensorSpec(..., "
                f'axes="NCHW", port_axes="NHWC")}}'
            )
        self.notices[
            f"output {name!r}: axes {found} of the reference taken as the port's, by shape"
        ] = None
        return found

    def _guess_axes(self, shape: tuple[int, ...], native: tuple[int, ...]) -> Axes | None:
        if sorted(shape) != sorted(native):
            return None
        for axes in self._likely:
            if len(axes) == len(shape) and tuple(shape[i] for i in axes) == native:
                return axes
        fitting = [
            axes
            for axes in permutations(range(len(shape)))
            if axes[:1] == (0,) and tuple(shape[i] for i in axes) == native
        ]
        return fitting[0] if len(fitting) == 1 else None


def _kind_word(kind: str) -> str:
    return {"f": "floats", "b": "booleans"}.get(kind, "integers")
