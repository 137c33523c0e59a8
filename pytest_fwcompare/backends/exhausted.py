"""Out of memory, told from everything else that a framework raises. Imports no framework."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from pytest_fwcompare.errors import ModelError, OutOfMemory

NAMES = frozenset({"OutOfMemoryError", "ResourceExhaustedError"})
"""Of torch and of TensorFlow. JAX raises XlaRuntimeError or JaxRuntimeError for everything, and
torch a plain RuntimeError on a CPU; there the text tells."""

TEXT = re.compile(
    r"RESOURCE_EXHAUSTED|\bout of memory\b|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|"
    r"can't allocate memory|not enough memory|failed to allocate|Dst tensor is not initialized",
    re.IGNORECASE,
)

LONGEST = 400
"""Characters of the framework's own words that are handed on."""


def is_exhausted(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory ran out."""
    return any(_says_so(one) for one in _chain(error))


def out_of_memory(
    role: str, stage: str, framework: str, error: BaseException, device: str
) -> OutOfMemory:
    """The error to raise instead; lets go of what the failed call still holds.

    Args:
        role: "reference" or "port".
        stage: in which memory ran out: "forward", "backward", ...
        framework: import name.
        error: for which `is_exhausted` is true.
        device: in the framework's words.
    """
    said = next(one for one in _chain(error) if _says_so(one))
    words = " ".join(str(said).split())[:LONGEST] or type(said).__name__
    for one in _chain(error):
        # The frames of the failed call hold its tensors for as long as the error lives.
        traceback.clear_frames(one.__traceback__)
    return OutOfMemory(
        role,
        f"{framework} ran out of memory on {device} in stage {stage!r} ({words}). What this "
        f"comparison held there is given back. Give TensorSpec smaller sizes, take another "
        f"device, or put the two sides on different ones (device='cpu/cuda')",
    )


def failed(role: str, stage: str, framework: str, error: BaseException, device: str) -> ModelError:
    """What a framework raised, as this package's error."""
    if is_exhausted(error):
        return out_of_memory(role, stage, framework, error, device)
    return ModelError(role, stage, f"{framework} raised {type(error).__name__}: {error}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]


def _says_so(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or names & NAMES:
        return True
    framework = "InternalError" in names or isinstance(error, RuntimeError)
    return framework and bool(TEXT.search(str(error)))
