"""Records every torch call of a float64 pass: value, inputs, attributes, module path, gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.backends.torch.binding import bind, plain, tensors_in, transformed
from pytest_fwcompare.backends.torch.exposed import EXPOSED
from pytest_fwcompare.backends.torch.flatten import flatten
from pytest_fwcompare.backends.torch.shadow import Float64Mode
from pytest_fwcompare.backends.torch.twin import plain_options

PROPERTIES = ("T", "mT", "H", "mH", "data", "real", "imag")
"""Properties that give a tensor, so that data flows through them."""


@dataclass(eq=False)
class Draft:
    """A record in the making. The tensor is held so that its id and storage stay its own."""

    tensor: torch.Tensor
    value: Array
    path: str
    operation: str
    inputs: tuple[int, ...]
    parameters: tuple[str, ...]
    attributes: dict[str, Any]
    arguments: tuple[Array, ...]
    place: str
    is_module: bool = False
    gradient: Array | None = None


@final
class Recorder(Float64Mode):
    """A float64 mode that keeps what every call gave.

    Args:
        names, lifted, working: see `Float64Mode`.
        held: name of each parameter and buffer, by id of its tensor.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        lifted: dict[int, tuple[Any, int, Any]],
        working: torch.dtype,
        held: Mapping[int, str],
    ) -> None:
        super().__init__(names, lifted, working)
        self.drafts: list[Draft] = []
        self._held = dict(held)
        self._known: dict[int, int] = {}
        self._storages: dict[int, list[int]] = {}
        self._stale: dict[int, int] = {}
        self._arrays: dict[int, tuple[torch.Tensor, Array]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._hook: Any = None

    def start(
        self, inputs: Mapping[str, torch.Tensor], copies: Mapping[int, torch.Tensor]
    ) -> None:
        """Begin with the model's inputs and the copies of its buffers."""
        self._held.update({id(copies[i]): name for i, name in self._held.items() if i in copies})
        with torch._C.DisableTorchFunction():
            for name, tensor in inputs.items():
                self._add(tensor, "", "input", {"name": name}, [])
        self._hook = register_module_forward_hook(self._after_module)

    def stop(self) -> None:
        """Stop watching modules."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def records(self) -> list[Recorded]:
        """The records in order of execution, with gradients if the pass has run backward."""
        return [
            Recorded(
                index=index,
                path=draft.path,
                operation=draft.operation,
                value=draft.value,
                inputs=draft.inputs,
                parameters=draft.parameters,
                attributes=draft.attributes,
                arguments=draft.arguments,
                gradient=draft.gradient,
                place=draft.place,
                is_module=draft.is_module,
            )
            for index, draft in enumerate(self.drafts)
        ]

    def property(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = func(*args)
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        watching = self._hook is not None
        if watching and name in PROPERTIES and isinstance(result, torch.Tensor):
            result = self.settle(result, name)
            self._add(result, self.path(), name, {}, [args[0]])
        return result

    def run(
        self,
        func: Callable[..., Any],
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        used = list(tensors_in([*args, *kwargs.values()]))
        watching = self._hook is not None  # a backward pass may run operations, too
        # Within vmap tensors have no values of their own.
        watching = watching and not any(map(transformed, used))
        if not watching or (not used and operation not in MAKERS):
            return super().run(func, operation, args, kwargs)
        given = bind(func, operation, args, kwargs)
        written = _written(operation, given)
        arguments = [self._index(tensor) for tensor in used]
        arrays = [self._array(tensor) for tensor in used]
        if written is not None:
            arrays = [self._snapshot(t, a, written) for t, a in zip(used, arrays, strict=True)]
        exposed = EXPOSED.get(func)
        if exposed is None:
            result = super().run(func, operation, args, kwargs)
        else:
            with self:
                result = exposed(*args, **kwargs)
        outcome = written if operation == "setitem" else result
        facts = {k: plain(v) for k, v in given.items() if not _has_tensor(v)}
        self._add_all(outcome, operation, facts, used, arguments, arrays, exposed is not None)
        if written is not None:
            self._mark_stale(written)
        return result

    def _add_all(
        self,
        outcome: Any,
        operation: str,
        facts: dict[str, Any],
        used: Sequence[torch.Tensor],
        indices: Sequence[int | None],
        arrays: Sequence[Array],
        composite: bool,
    ) -> None:
        """One record for each tensor of a result."""
        tensors = [tensor for tensor in tensors_in(outcome) if not transformed(tensor)]
        for number, tensor in enumerate(tensors):
            extra = {"output": number} if len(tensors) > 1 else {}
            attributes = {**facts, **extra}
            self._add(tensor, self.path(), operation, attributes, used, indices, arrays, composite)

    def _add(
        self,
        tensor: torch.Tensor,
        path: str,
        operation: str,
        attributes: dict[str, Any],
        used: Sequence[torch.Tensor],
        indices: Sequence[int | None] | None = None,
        arrays: Sequence[Array] | None = None,
        is_module: bool = False,
    ) -> None:
        """Append a record of a tensor made from others."""
        if indices is None:
            indices = [self._index(t) for t in used]
        if arrays is None:
            arrays = [self._array(t) for t in used]
        # What a composite or a module gave is the value of an operation within it already.
        known = self._known.get(id(tensor)) if is_module else None
        value = values64(tensor) if known is None else self.drafts[known].value
        operation = operation.rstrip("_")
        count = self._counts[path, operation]
        self._counts[path, operation] += 1
        draft = Draft(
            tensor=tensor,
            value=value,
            path=path,
            operation=operation,
            inputs=tuple(dict.fromkeys(i for i in indices if i is not None)),
            parameters=tuple(self._held[id(t)] for t in used if id(t) in self._held),
            attributes=attributes,
            arguments=tuple(arrays),
            place=f"{path}:{operation}:{count}",
            is_module=is_module,
        )
        self.drafts.append(draft)
        if known is None:
            self._known[id(tensor)] = index = len(self.drafts) - 1
            self._storages.setdefault(_storage(tensor), []).append(index)
            self._stale.pop(id(tensor), None)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: _keep(draft, gradient))

    def _index(self, tensor: torch.Tensor) -> int | None:
        """The record that holds the tensor's present value; None for parameters and constants."""
        if id(tensor) in self._held:
            return None
        if id(tensor) in self._stale:
            source = self._stale.pop(id(tensor))
            before = self._known[id(tensor)]
            self._add(tensor, self.path(), "written", {}, [], [before, source], [])
        index = self._known.get(id(tensor))
        if index is None:
            # Another object over the same memory, such as one that came back through NumPy.
            for other in reversed(self._storages.get(_storage(tensor), [])):
                if self.drafts[other].tensor.shape == tensor.shape:
                    return other
        return index

    def _array(self, tensor: torch.Tensor) -> Array:
        """The tensor's values, shared with the record that holds them; others made once.

        Parameters are shared with the model, which gets other memory when weights are loaded.
        """
        index = self._known.get(id(tensor))
        if index is not None and id(tensor) not in self._stale:
            return self.drafts[index].value
        if id(tensor) not in self._arrays:
            values = values64(tensor)
            shared = isinstance(tensor, torch.nn.Parameter)
            self._arrays[id(tensor)] = tensor, values if shared else np.array(values)
        return self._arrays[id(tensor)][1]

    def _snapshot(self, tensor: torch.Tensor, array: Array, written: torch.Tensor) -> Array:
        """Copy every kept value in memory that is about to be written; the array to keep."""
        if _storage(tensor) != _storage(written):
            return array
        for index in self._storages.get(_storage(written), []):
            draft = self.drafts[index]
            if not draft.value.flags.owndata:
                shared, draft.value = draft.value, np.array(draft.value)
                array = draft.value if array is shared else array
                for other in self.drafts:
                    other.arguments = tuple(
                        draft.value if a is shared else a for a in other.arguments
                    )
                    other.value = draft.value if other.value is shared else other.value
        return array

    def _mark_stale(self, written: torch.Tensor) -> None:
        """Other tensors over the memory that was written hold a value that no record has yet."""
        source = self._known[id(written)]
        for index in self._storages.get(_storage(written), []):
            tensor = self.drafts[index].tensor
            if tensor is not written:
                self._stale[id(tensor)] = source

    def _after_module(self, module: torch.nn.Module, args: Any, result: Any) -> None:
        """Record what a whole module gave."""
        if id(module) not in self.names:
            return
        with torch._C.DisableTorchFunction():
            used = list(tensors_in(args))
            outputs, _ = flatten(result)
            for name, tensor in outputs.items():
                if tensor.is_floating_point() and id(tensor) in self._known:
                    facts = plain_options(module)
                    if len(outputs) > 1:
                        facts["output"] = name
                    kind = type(module).__name__
                    self._add(tensor, self.names[id(module)], kind, facts, used, is_module=True)


MAKERS = {"arange", "linspace", "eye", "tril_indices", "triu_indices", "from_numpy", "tensor"}
"""Operations without tensors whose result a port may hold, too: positions, frequencies."""


def values64(tensor: torch.Tensor) -> Array:
    """float64 values; memory is shared where they are float64. Complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    values: Array = tensor.resolve_neg().cpu().double().numpy()
    return values


def _keep(draft: Draft, gradient: torch.Tensor | None) -> None:
    """Keep the gradient that reached a tensor; a part that nothing used (of a chunk) has none."""
    if gradient is None:
        return
    with torch._C.DisableTorchFunction():
        draft.gradient = np.array(values64(gradient))


def _storage(tensor: torch.Tensor) -> int:
    """Address of the tensor's memory; its id where there is none."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return -id(tensor)
    return int(tensor.untyped_storage().data_ptr())


def _has_tensor(value: Any) -> bool:
    """Whether an argument is a tensor or a list with one."""
    return next(tensors_in(value), None) is not None


def _written(operation: str, given: Mapping[str, Any]) -> torch.Tensor | None:
    """The tensor that a call writes to, by torch's naming rules."""
    target = given.get("out")
    in_place = operation.endswith("_") or operation == "setitem"
    if target is None and (in_place or given.get("inplace") is True):
        target = next(iter(given.values()), None)
    return target if isinstance(target, torch.Tensor) else None
