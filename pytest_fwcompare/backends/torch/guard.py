"""A guard around one pass of a torch model: whatever the pass changes is put back.

A pass of a small network takes a millisecond and its guard is entered twice, so what is usual (a
model that changes nothing) is found out by as few looks as possible.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytest_fwcompare.backends.torch.replacements import finfo_of

_seeds = itertools.count(1)


def modules_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """All modules of a tree, each once; `Module.modules` takes several times as long."""
    found, known = [model], {id(model)}
    for module in found:  # which grows on the way
        for child in module._modules.values():
            if child is not None and id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


class Tree:
    """A model with its modules, which are looked for anew only if their number has changed.

    Args:
        model: a twin.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.scripted = isinstance(model, torch.jit.ScriptModule)
        self._modules: list[torch.nn.Module] = []
        self._links = -1

    def modules(self) -> list[torch.nn.Module]:
        """All modules, each once."""
        if self.scripted:
            return list(self.model.modules())
        if sum(len(module._modules) for module in self._modules) != self._links:
            self._modules = modules_of(self.model)
            self._links = sum(len(module._modules) for module in self._modules)
        return self._modules


@contextlib.contextmanager
def guarded(
    tree: Tree,
    *,
    training: bool,
    gradients: bool,
    shadow_of: torch.dtype | None,
) -> Iterator[dict[int, torch.Tensor]]:
    """Run the model without a trace: in the block its buffers are copies, then all is put back.

    Put back are buffers, attributes that modules set on themselves, training flags, default dtype
    and the random state of torch, NumPy and Python. Every block draws other random numbers, so a
    model that is random shows it.

    Args:
        tree: a twin.
        training: run in training mode.
        gradients: keep what a backward pass needs.
        shadow_of: the working dtype if this is its float64 shadow, else None.

    Yields:
        The copies of the buffers by id of the original.
    """
    model, scripted, modules = tree.model, tree.scripted, tree.modules()
    device = next((p.device for p in model.parameters()), None)
    cuda = [device.index or 0] if device is not None and device.type == "cuda" else []
    flags = [(module, module.training) for module in modules] if training else []
    tables = [] if scripted else [module.__dict__ for module in modules]
    attributes = [(table, table.copy()) for table in tables]
    dtype, python, stream = torch.get_default_dtype(), random.getstate(), numpy_stream()
    copies: dict[int, torch.Tensor] = {}
    with (
        _forked_torch(cuda),
        torch.set_grad_enabled(gradients),
        _copied_buffers(modules, copies, scripted),
        contextlib.nullcontext() if shadow_of is None else finfo_of(shadow_of),
    ):
        _draw_seed(next(_seeds), bool(cuda))
        if shadow_of is not None:
            torch.set_default_dtype(torch.float64)
        if training:
            model.train()
        try:
            yield copies
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(python)
            if numpy_stream() is not stream:
                np.random.set_state(stream)
            for now, before in attributes:
                if _changed(now, before):
                    now.clear()
                    now.update(before)
            for module, flag in flags:
                module.training = flag


def _changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether any attribute is another value than before."""
    try:
        return bool(now != before)  # the same object is equal without a look at it
    except Exception:  # an array was bound anew, and its comparison has no single answer
        return True


@contextlib.contextmanager
def _forked_torch(cuda: list[int]) -> Iterator[None]:
    """Put torch's random state back; on a CPU without the looks at devices of `fork_rng`."""
    if cuda:
        with torch.random.fork_rng(cuda):
            yield
        return
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@dataclass
class _Stream:
    """The state of NumPy's global generator when it was last read, and the memory it is in."""

    generator: Any
    memory: Any
    seen: bytes
    state: Any


_stream: _Stream | None = None


def numpy_stream() -> Any:
    """The state of NumPy's global generator; the same object as long as nobody drew.

    Reading and setting it takes longer than a small layer, so it is read anew only if the memory
    of the Mersenne twister (624 words and a position, at a documented address) has changed.
    """
    global _stream
    generator: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if _stream is None or _stream.generator is not generator:
        if type(generator) is not np.random.MT19937:
            return np.random.get_state()
        words = (ctypes.c_char * (625 * 4)).from_address(generator.ctypes.state_address)
        _stream = _Stream(generator, words, words.raw, np.random.get_state())
        return _stream.state
    now = _stream.memory.raw
    if now != _stream.seen:
        _stream.seen, _stream.state = now, np.random.get_state()
    return _stream.state


def _draw_seed(seed: int, cuda: bool) -> None:
    """Seed the forked generators."""
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def _copied_buffers(
    modules: list[torch.nn.Module], copies: dict[int, torch.Tensor], scripted: bool
) -> Iterator[None]:
    """Give modules copies of their buffers, which they may change, and take them away again.

    The originals are swapped out rather than written back, for autograd refuses a backward pass
    through a buffer that was written to after it was used.
    """
    before: list[tuple[Any, str, torch.Tensor]] = []
    for module in modules:
        if not module._buffers:
            continue
        for key, value in list(module._buffers.items()):
            if value is not None:
                before.append((module, key, value))
                copies.setdefault(id(value), value.detach().clone())
                if scripted:
                    setattr(module, key, copies[id(value)])
                else:
                    module._buffers[key] = copies[id(value)]
    try:
        yield
    finally:
        for module, key, value in before:
            now = getattr(module, key, None)
            if now is not None and now is not copies[id(value)]:
                copies[id(value)] = now  # the module bound a new tensor to its buffer
            if scripted:
                setattr(module, key, value)
            else:
                module._buffers[key] = value
