"""A torch module in this process: its twins, their parameters, and what its passes run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pytest_fwcompare.backends.base import (
    HYPERPARAMETERS,
    Argument,
    Array,
    Parameter,
    Precision,
    Side,
)
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.torch.guard import Tree
from pytest_fwcompare.backends.torch.modes import runner
from pytest_fwcompare.backends.torch.shadow import Float64Mode
from pytest_fwcompare.backends.torch.twin import (
    DTYPES,
    Slot,
    frozen_names,
    own_tensor,
    plain_module,
    prepare,
    slots,
    to_numpy,
    twin_of,
)
from pytest_fwcompare.formats import format_of

HEAVY = 100_000
"""Values of a parameter of which two copies at a time are one too many."""


class TorchModel(Side):
    """A torch module under comparison with its twins, which hold its parameters by precision.

    Args:
        model: the user's module; it is copied unless `own`.
        dtype: working dtype.
        device: "cpu" or "cuda[:N]".
        mode: "eager", "graph" or "compiled"; the float64 shadow is always run eagerly.
        own: True if the module may be cast, moved and changed.

    Raises:
        ModelError: the module cannot be copied.
    """

    framework = "torch"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        plain = plain_module(model)
        self.format = format_of(dtype)
        self.dtype, self.device, self.mode = DTYPES[self.format.stored], torch.device(device), mode
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self.loads: dict[Precision, int] = {"working": 0, "double": 0}
        self._frozen = frozen_names(plain)
        self.model = (prepare if own else twin_of)(plain, self.dtype, self.device)
        self.runner = runner(self.model, mode)
        # Scripts and compiled code call no function that could be replaced.
        scripted = any(isinstance(m, torch.jit.ScriptModule) for m in self.model.modules())
        self.shares_dropout = mode == "eager" and not scripted
        # The user's own module keeps what it came with, unless it is the one that is run.
        self._given = None if own else plain
        self._originals: dict[str, Slot] = {}
        self._double: torch.nn.Module | None = None
        self._names: dict[int, str] = {}
        self._lifted: dict[int, tuple[Any, int, Any]] = {}
        self._slots: dict[Precision, dict[str, Slot]] = {}
        self._trees: dict[Precision, Tree] = {}

    def parameters(self) -> list[Parameter]:
        return [slot.parameter for slot in self.slots("working").values()]

    def read(self) -> dict[str, Array]:
        return {name: to_numpy(slot.tensor) for name, slot in self.slots("working").items()}

    def value(self, name: str) -> Array:
        return to_numpy(self.slots("working")[name].tensor)

    def original(self, name: str) -> Array | None:
        if self._given is None:
            return None
        self._originals = self._originals or slots(self._given)
        values = self._originals[name].tensor.detach().to(self.dtype)
        return to_numpy(values, copy=False)

    def release(self, precision: Precision) -> None:
        if precision == "double":
            self._double = None
            self._slots.pop(precision, None)
            self._trees.pop(precision, None)
            self._names.clear()
            self._lifted.clear()

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        known = self.slots(precision)
        check_values(self.role, (slot.parameter for slot in known.values()), values)
        with torch.no_grad():
            for name in values:
                self._fill(known[name], values[name])
        self.loads[precision] += 1

    def _fill(self, slot: Slot, value: Array) -> None:
        """Give a parameter its value, the old one let go before the new one is made."""
        target = slot.tensor
        on_cpu = self.device.type == "cpu"
        if on_cpu and target.numel() > HEAVY:
            target.data = target.data.new_empty(0)
        array = np.asarray(value, order="C")  # ascontiguousarray makes a scalar (1,)
        fresh = own_tensor(array, target.dtype, self.device)
        if on_cpu:
            # Other memory, not other values: records of earlier passes share the old one.
            target.data = fresh
        else:
            target.copy_(fresh)

    @contextlib.contextmanager
    def eagerly(self) -> Iterator[None]:
        before = self.runner, self.mode
        self.runner, self.mode = self.model, "eager"
        try:
            yield
        finally:
            self.runner, self.mode = before

    def close(self) -> None:
        self.release("double")
        self._slots.clear()
        self._trees.clear()
        self._given = None
        self._originals.clear()

    def hyperparameters(self) -> dict[str, float]:
        twin = self.twin("double")
        if isinstance(twin, torch.jit.ScriptModule):
            return {}
        return {
            f"{path}.{key}".lstrip("."): vars(module)[key]
            for path, module in twin.named_modules()
            for key in HYPERPARAMETERS
            if type(vars(module).get(key)) is float
        }

    @contextlib.contextmanager
    def changed(self, name: str, value: float) -> Iterator[None]:
        path, _, key = name.rpartition(".")
        module = self.twin("double").get_submodule(path)
        before = getattr(module, key)
        setattr(module, key, value)
        try:
            yield
        finally:
            setattr(module, key, before)

    def twin(self, precision: Precision) -> torch.nn.Module:
        """The module that runs in that precision; the double one is made when first asked for."""
        if precision == "working":
            model: torch.nn.Module = self.model
            return model
        if self._double is None:
            self._double = twin_of(self.model, torch.float64, self.device)
            self._names = {id(module): path for path, module in self._double.named_modules()}
        return self._double

    def tree(self, precision: Precision) -> Tree:
        """The twin with its modules."""
        if precision not in self._trees:
            self._trees[precision] = Tree(self.twin(precision), self.device)
        return self._trees[precision]

    def slots(self, precision: Precision) -> dict[str, Slot]:
        """Parameters of the twin with their tensors; looked up anew only if the twin is new."""
        if precision not in self._slots:
            self._slots[precision] = slots(self.twin(precision), self._frozen)
        return self._slots[precision]

    def mode64(self, record: bool) -> Float64Mode:
        """A fresh mode for one pass of the double twin."""
        self.twin("double")
        if record:
            from pytest_fwcompare.backends.torch.record import Recorder

            held = {id(slot.tensor): name for name, slot in self.slots("double").items()}
            return Recorder(self._names, self._lifted, self.dtype, held)
        return Float64Mode(self._names, self._lifted, self.dtype)

    def tensors(
        self, arguments: Sequence[Argument], precision: Precision, gradients: bool
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Positional and keyword tensors, floats cast to the precision and ready for gradients."""
        dtype = self.dtype if precision == "working" else torch.float64
        positional: list[torch.Tensor] = []
        keywords: dict[str, torch.Tensor] = {}
        for argument in arguments:
            tensor = own_tensor(argument.value, dtype, self.device)
            if tensor.is_floating_point():
                tensor.requires_grad_(gradients)
            if argument.keyword:
                keywords[argument.name] = tensor
            else:
                positional.append(tensor)
        return positional, keywords
