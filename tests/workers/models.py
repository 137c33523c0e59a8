"""Factories that workers import by name: right ones, and ones that die in every way there is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))


def other_gelu() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.GELU(approximate="tanh"), torch.nn.Linear(4, 2)
    )


def unseeded() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())


def segfault() -> None:
    print("the last words before the fault", flush=True)
    ctypes.string_at(0)


def by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_at_once() -> None:
    os._exit(3)


def hang() -> None:
    """Tell the test that from now on waiting is in vain; see `impatient` of test_deaths."""
    if "FWCOMPARE_TEST_HANGS" in os.environ:
        Path(os.environ["FWCOMPARE_TEST_HANGS"]).touch()


def loop() -> None:
    hang()
    while True:
        time.sleep(0.01)


def much_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, resource.RLIM_INFINITY))
    torch.empty(10 << 30, dtype=torch.uint8).fill_(1)


def pipes() -> Iterator[int]:
    """Descriptors of pipes beyond the standard ones, the channel's among them."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            if int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:"):
                yield int(entry.name)


def close_pipes() -> None:
    """Nobody hears of the process any more, and it lives on."""
    for number in list(pipes()):
        os.close(number)
    time.sleep(600)


def garbage() -> None:
    """C code that prints to standard output: harmless."""
    libc = ctypes.CDLL(None)
    for number in range(2000):
        libc.write(1, b"\x00\xff garbage %d \n" % number, 16)
    print("and Python's", file=sys.__stdout__)


def nonsense() -> None:
    """Write what is no message into every pipe."""
    for number in pipes():
        with contextlib.suppress(OSError):
            os.write(number, b"this is no message at all\n" * 10)
    hang()


DEATHS = {
    "segfault": segfault,
    "kill": by_signal,
    "exit": exit_at_once,
    "loop": loop,
    "memory": much_memory,
    "pipes": close_pipes,
    "garbage": garbage,
    "nonsense": nonsense,
}


class Dying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward = backward
        if forward:
            DEATHS[forward]()
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        if ctx.backward:
            DEATHS[ctx.backward]()
        return gradient, None, None


class Model(torch.nn.Module):
    def __init__(self, forward: str = "", backward: str = "") -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.deaths = forward, backward

    def forward(self, x):
        return Dying.apply(self.linear(x), *self.deaths)


def _register() -> None:
    for name in DEATHS:
        for stage in ("forward", "backward"):

            def make(name=name, stage=stage) -> Model:
                torch.manual_seed(3)
                return Model(**{stage: name})

            make.__name__ = make.__qualname__ = f"{name}_in_{stage}"
            globals()[make.__name__] = make


_register()


class DiesInDouble(Model):
    def forward(self, x):
        if x.dtype == torch.float64:
            segfault()
        return super().forward(x)


def dies_in_double() -> Model:
    torch.manual_seed(3)
    return DiesInDouble()


class Fatal(torch.nn.Parameter):
    """Whoever gives it another value dies; moving it as it is does no harm."""

    @property
    def data(self):
        return super().data

    @data.setter
    def data(self, value) -> None:
        if not torch.is_grad_enabled():
            segfault()
        torch.nn.Parameter.data.__set__(self, value)


def dies_of_a_copy() -> Model:
    model = plain()
    model.linear.weight = Fatal(model.linear.weight.detach())
    return model


def plain() -> Model:
    torch.manual_seed(3)
    return Model()


def segfault_in_build() -> None:
    segfault()


def raises() -> None:
    raise ValueError("no such checkpoint")


def exits() -> None:
    sys.exit("the model wants to leave")


def with_buffers() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def wide() -> torch.nn.Module:
    """More than fits a message: its arrays go through shared memory."""
    torch.manual_seed(2)
    return torch.nn.Linear(300, 200)


class Holding(torch.nn.Module):
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.function = lambda x: x

    def forward(self, x):
        return self.function(self.linear(x))


def not_installed_here() -> torch.nn.Module:
    """As a factory that imports its framework, which only the worker's interpreter has."""
    if "FWCOMPARE_TEST_PARENT" in os.environ:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    return tiny()
