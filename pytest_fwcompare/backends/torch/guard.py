"""A guard around one pass of a torch model: whatever the pass changes is put back.

A pass of a small network takes a millisecond and its guard is entered twice, so what is usual (a
model that changes nothing) is found out by as few looks as possible.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
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
        device: where it runs.

    Attributes:
        cuda: number of the GPU, or None on a CPU.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.model = model
        self.scripted = isinstance(model, torch.jit.ScriptModule)
        self.cuda: int | None = None
        if device.type == "cuda":
            self.cuda = torch.cuda.current_device() if device.index is None else device.index
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


class Guarded:
    """Run the model without a trace: in the block its buffers are copies, then all is put back.

    Put back are buffers, attributes that modules set on themselves, training flags, default dtype
    and the random state of torch, NumPy and Python. Every block draws other random numbers, so a
    model that is random shows it. Entering gives the copies of the buffers by id of the original.

    Written without a block for each of these, and without a look at what is rarely there: between
    two passes the processor has forgotten all of this code, and reads it from memory line by line.

    Args:
        tree: a twin.
        training: run in training mode.
        gradients: keep what a backward pass needs.
        shadow_of: the working dtype if this is its float64 shadow, else None.
    """

    __slots__ = (
        "attributes", "buffers", "copies", "dtype", "finfo", "flags", "grad", "gradients",
        "python", "rest", "shadow_of", "stream", "torch_state", "training", "tree",
    )  # fmt: skip

    def __init__(
        self, tree: Tree, *, training: bool, gradients: bool, shadow_of: torch.dtype | None
    ) -> None:
        self.tree, self.training = tree, training
        self.gradients, self.shadow_of = gradients, shadow_of

    def __enter__(self) -> dict[int, torch.Tensor]:
        tree, modules = self.tree, self.tree.modules()
        self.flags = [(module, module.training) for module in modules] if self.training else []
        tables = [] if tree.scripted else [module.__dict__ for module in modules]
        self.attributes = [(table, table.copy()) for table in tables]
        self.dtype, self.grad = torch.get_default_dtype(), torch.is_grad_enabled()
        self.python, self.stream = random.getstate(), numpy_stream()
        self.finfo = torch.finfo
        self.rest = None
        if tree.cuda is not None:
            self.rest = contextlib.ExitStack()
            self.rest.enter_context(torch.random.fork_rng([tree.cuda]))
        self.torch_state = torch.default_generator.get_state()
        self.copies: dict[int, torch.Tensor] = {}
        self.buffers: list[Buffer] = []
        try:
            self._change(modules)
        except BaseException:
            self.__exit__()
            raise
        return self.copies

    def _change(self, modules: list[torch.nn.Module]) -> None:
        """Make things as the pass needs them."""
        if self.gradients != self.grad:
            torch.set_grad_enabled(self.gradients)
        for module in modules:
            if module._buffers:
                self._copy_buffers(module)
        seed = next(_seeds)
        torch.default_generator.manual_seed(seed)
        if self.tree.cuda is not None:
            with torch.cuda.device(self.tree.cuda):  # of this GPU, whichever is the current one
                torch.cuda.manual_seed(seed)
            if self.gradients and not self.training and self.rest is not None:
                self.rest.enter_context(differentiable(modules))
        if self.shadow_of is not None:
            torch.finfo = finfo_of(self.shadow_of)
            torch.set_default_dtype(torch.float64)
        if self.training:
            self.tree.model.train()

    def __exit__(self, *_: object) -> None:
        if torch.get_default_dtype() is not self.dtype:
            torch.set_default_dtype(self.dtype)
        random.setstate(self.python)
        if numpy_stream() is not self.stream:
            np.random.set_state(self.stream)
        for now, before in self.attributes:
            if _changed(now, before):
                now.clear()
                now.update(before)
        for module, flag in self.flags:
            module.training = flag
        torch.finfo = self.finfo
        for buffer in self.buffers:
            self._put_back(*buffer)
        if torch.is_grad_enabled() != self.grad:
            torch.set_grad_enabled(self.grad)
        torch.default_generator.set_state(self.torch_state)
        if self.rest is not None:
            self.rest.close()

    def _copy_buffers(self, module: torch.nn.Module) -> None:
        """Give a module copies of its buffers, which it may change.

        The originals are swapped out rather than written back, for autograd refuses a backward
        pass through a buffer that was written to after it was used.
        """
        for key, value in list(module._buffers.items()):
            if value is None:
                continue
            self.buffers.append((module, key, value))
            copied = self.copies.setdefault(id(value), value)
            if copied is value:
                copied = self.copies[id(value)] = value.detach().clone()
            if self.tree.scripted:
                setattr(module, key, copied)
            else:
                module._buffers[key] = copied

    def _put_back(self, module: Any, key: str, value: torch.Tensor) -> None:
        """Take the copy of a buffer away again; what the module bound to it is handed out."""
        now = getattr(module, key, None)
        if now is not None and now is not self.copies[id(value)]:
            self.copies[id(value)] = now
        if self.tree.scripted:
            setattr(module, key, value)
        else:
            module._buffers[key] = value


@contextlib.contextmanager
def differentiable(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Recurrent layers that a GPU can take back: cuDNN keeps what that needs in training only.

    In training mode and without its dropout a recurrent layer computes what it does in inference
    ("cudnn RNN backward can only be called in training mode").
    """
    kept = [
        (module, module.training, getattr(module, "dropout", None))
        for module in modules
        if recurrent(module) and not module.training
    ]
    try:
        for module, _, dropout in kept:
            module.training = True
            if dropout:
                module.dropout = 0.0
        yield
    finally:
        for module, training, dropout in kept:
            module.training = training
            if dropout:
                module.dropout = dropout


def recurrent(module: torch.nn.Module) -> bool:
    """Whether cuDNN may run it: LSTM, GRU, RNN; of scripts those whose dropout is no constant."""
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in ("LSTM", "GRU", "RNN") and not module.dropout
    return isinstance(module, torch.nn.RNNBase)


Buffer = tuple[Any, str, torch.Tensor]
"""A module, the name of a buffer in it, and the buffer."""


def _changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether any attribute is another value than before."""
    try:
        return bool(now != before)  # the same object is equal without a look at it
    except Exception:  # an array was bound anew, and its comparison has no single answer
        return True


@dataclass
class _Stream:
    """The state of a global generator when it was last read, and the memory it is in."""

    generator: Any
    memory: Any
    seen: bytes
    state: Any


WORDS = 625
"""Of a Mersenne twister: 624 and a position, of four bytes each."""

_numpy: _Stream | None = None


def numpy_stream() -> Any:
    """The state of NumPy's global generator; the same object as long as nobody drew.

    Reading and setting it takes longer than a small layer, so it is read anew only if the memory
    of the Mersenne twister (at a documented address) has changed.
    """
    global _numpy
    generator: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if _numpy is None or _numpy.generator is not generator:
        if type(generator) is not np.random.MT19937:
            return np.random.get_state()
        words = (ctypes.c_char * (WORDS * 4)).from_address(generator.ctypes.state_address)
        _numpy = _Stream(generator, words, words.raw, np.random.get_state())
        return _numpy.state
    now = _numpy.memory.raw
    if now != _numpy.seen:
        _numpy.seen, _numpy.state = now, np.random.get_state()
    return _numpy.state
