"""How torch computes products during a pass: TF32 and other shortcuts off, unless asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from pytest_fwcompare.formats import Format

REDUCED = "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"
"""Sums of products of sixteen bits that are kept in sixteen bits, for speed."""

COMPUTED = {"float16": torch.float16, "bfloat16": torch.bfloat16}

KNOBS = (("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"), ("mkldnn", "matmul"))
"""Since torch 2.9 each has a precision of its own; who used one of them cannot use the old names
any more, which raise."""


class Arithmetic:
    """Products in the precision of the working dtype; the user's settings are put back.

    Args:
        made: the working dtype.
        device: of the pass.
        notice: told if the model itself let torch compute less exactly.
    """

    __slots__ = "before", "cuda", "notice", "sums", "wanted"

    def __init__(
        self, made: Format, device: torch.device, notice: Callable[[str], None] | None = None
    ) -> None:
        self.cuda, self.notice = device.type == "cuda", notice
        self.wanted = (made.name == "tf32" and self.cuda,) * 2

    def __enter__(self) -> None:
        self.sums = _narrow_sums(dict.fromkeys(REDUCED, False)) if self.cuda else {}
        self.before = _read()
        if self.before.state(self.cuda) != self.wanted:
            self.before.write(*self.wanted)

    def __exit__(self, *_: object) -> None:
        now = _read()
        if now.values != self.before.values:
            if self.notice is not None and now.state(self.cuda) != self.wanted:
                self.notice(now.words())
            self.before.restore()
        if self.cuda:
            _narrow_sums(self.sums)


def cast(made: Format, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast, for mixed precision."""
    if not made.mixed:
        return contextlib.nullcontext()
    narrow: contextlib.AbstractContextManager[Any] = torch.autocast(
        device.type, dtype=COMPUTED[made.computed]
    )
    return narrow


def flags() -> dict[str, Any]:
    """What is allowed now, for the record."""
    found = _read()
    matmul, convolution = found.state(cuda=True)
    facts: dict[str, Any] = {"matmul_tf32": matmul, "cudnn_tf32": convolution}
    facts["float32_matmul_precision"] = "/".join(map(str, found.values))
    for name in REDUCED:
        facts[name.removeprefix("allow_")] = getattr(torch.backends.cuda.matmul, name, None)
    return facts


class _Old:
    """By the names that torch has had since 1.7; they cover CUDA, cuDNN and the CPU's oneDNN."""

    def __init__(self) -> None:
        self.values = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def state(self, cuda: bool) -> tuple[bool, bool]:
        return self.values[0] != "highest", bool(self.values[1]) and cuda

    def write(self, matmul: bool, convolution: bool) -> None:
        torch.set_float32_matmul_precision("high" if matmul else "highest")
        torch.backends.cudnn.allow_tf32 = convolution

    def restore(self) -> None:
        torch.set_float32_matmul_precision(self.values[0])
        torch.backends.cudnn.allow_tf32 = self.values[1]

    def words(self) -> str:
        return (
            f"float32_matmul_precision {self.values[0]!r}, TF32 of cuDNN "
            f"{'on' if self.values[1] else 'off'}"
        )


class _New:
    """By the precision of each knob."""

    def __init__(self) -> None:
        self.values = tuple(str(_knob(*names).fp32_precision) for names in KNOBS)

    def state(self, cuda: bool) -> tuple[bool, bool]:
        matmul, conv, rnn, cpu = (value in ("tf32", "bf16") for value in self.values)
        return (matmul if cuda else cpu), (conv or rnn) and cuda

    def write(self, matmul: bool, convolution: bool) -> None:
        wanted = (matmul, convolution, convolution, False)
        for names, on in zip(KNOBS, wanted, strict=True):
            _knob(*names).fp32_precision = "tf32" if on else "ieee"

    def restore(self) -> None:
        for names, value in zip(KNOBS, self.values, strict=True):
            _knob(*names).fp32_precision = value

    def words(self) -> str:
        named = zip(KNOBS, self.values, strict=True)
        return ", ".join(f"{'.'.join(names)} {value!r}" for names, value in named)


def _knob(library: str, part: str) -> Any:
    return getattr(getattr(torch.backends, library), part)


def _read() -> _Old | _New:
    try:
        return _Old()
    except RuntimeError:  # the user chose by the new names
        return _New()


def _narrow_sums(wanted: dict[str, bool]) -> dict[str, bool]:
    """Set which sums may be kept narrow, where torch has the setting; what was set before."""
    matmul = torch.backends.cuda.matmul
    before = {name: getattr(matmul, name) for name in wanted if hasattr(matmul, name)}
    for name in before:
        setattr(matmul, name, wanted[name])
    return before
