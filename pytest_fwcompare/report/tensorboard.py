"""Event files for TensorBoard.

A folder for each comparison, in it a run for each side: figures that both sides have carry the
same tag, so that TensorBoard shows them side by side. The step counts how often the folder was
written to, so that the runs of a week draw a line.

    scalars     gap, ulp, jitter, noise of each tensor; forward, backward and first call in
                milliseconds; peak memory in MiB
    histograms  gap, noise (decimal logarithms, over all tensors); gap over what rounding explains
                (over the examples); parameters and gradients
    texts       the summary
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fwcompare.comparing.histograms import histogram
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison, Timing
from pytest_fwcompare.report.facts import measured, name_of

LONGEST = 120
"""Characters of a folder's name; file systems take 255 bytes."""

MILLISECONDS = 1e3
MEBIBYTES = 2.0**-20


def write_events(folder: Path, results: Sequence[Result]) -> None:
    """Write the event files of a run.

    Args:
        folder: the log directory; event files of earlier runs stay.
        results: of the run.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            place = folder / folder_name(name_of(result))
            for role, writer_of in (("reference", _reference), ("port", _port)):
                framework = getattr(result.comparison, role)
                with _writer(place / f"{role} {framework}") as (writer, step):
                    writer_of(writer, step, result.comparison)
    except OSError as error:
        raise UsageError(f"tensorboard: {folder}: {error}") from None


def folder_name(test: str) -> str:
    """A test's id as the name of a folder, told apart by a hash where characters were lost."""
    name = re.sub(r"[^\w.,=\[\]-]+", "-", test, flags=re.ASCII).lstrip(".")
    if name == test and len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{_hash(test)}"


@contextmanager
def _writer(folder: Path) -> Iterator[tuple[Any, int]]:
    """A writer into a folder, and the number of runs that are there already."""
    with without_torch():
        from tensorboardX import SummaryWriter
    step = len(list(folder.glob("events.*"))) if folder.is_dir() else 0
    # The step in the name keeps runs of one second apart.
    writer = SummaryWriter(logdir=str(folder), filename_suffix=f".{step}")
    try:
        yield writer, step
    finally:
        writer.close()


@contextmanager
def without_torch() -> Iterator[None]:
    """Keep tensorboardX from importing torch, which it does wherever there is one.

    It needs it only for tensors, which nobody hands it here; and torch imported after TensorFlow,
    at the end of a run that never used it, costs seconds and has crashed.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _reference(writer: Any, step: int, made: Comparison) -> None:
    for row in made.tensors:
        writer.add_scalar(tag("noise", row.name), row.reference_noise, step)
    _logarithms(writer, "noise", [row.reference_noise for row in made.tensors], step)
    # With the same framework on both sides the reference's is called "torch reference".
    timing = next((t for t in made.timings if t.framework.split()[0] == made.reference), None)
    _shared(writer, step, made, "reference", timing)


def _port(writer: Any, step: int, made: Comparison) -> None:
    for row in made.tensors:
        writer.add_scalar(tag("gap", row.name), row.gap, step)
        writer.add_scalar(tag("jitter", row.name), row.jitter, step)
        writer.add_scalar(tag("ulp", row.name), row.ulp, step)
        writer.add_scalar(tag("noise", row.name), row.port_noise, step)
    if measured(made):
        writer.add_scalar("largest/gap", made.gap, step)
        writer.add_scalar("largest/noise", made.noise, step)
    _logarithms(writer, "gap", [row.gap for row in made.tensors], step)
    _logarithms(writer, "noise", [row.port_noise for row in made.tensors], step)
    _logarithms(writer, "gap over what rounding explains", made.examples.ratios, step)
    # Indented, so that Markdown takes nothing in it for markup.
    text = "\n".join(f"    {line}" for line in made.summary().splitlines())
    writer.add_text("summary", text, step)
    timing = next((t for t in made.timings if t.framework == made.port), None)
    _shared(writer, step, made, "port", timing)


def _shared(writer: Any, step: int, made: Comparison, role: str, timing: Timing | None) -> None:
    """What both sides have: times, memory, parameters, gradients."""
    if timing is not None:
        writer.add_scalar("time/forward_ms", timing.forward.median * MILLISECONDS, step)
        if timing.backward is not None:
            writer.add_scalar("time/backward_ms", timing.backward.median * MILLISECONDS, step)
        writer.add_scalar("time/first_call_ms", timing.first_call_s * MILLISECONDS, step)
        for name, value in (("host", timing.host_s), ("device", timing.device_s)):
            if value is not None:
                writer.add_scalar(f"time/{name}_ms", value * MILLISECONDS, step)
        if timing.ratio is not None:
            writer.add_scalar("time/ratio", timing.ratio.median, step)
        if timing.peak_bytes is not None:
            writer.add_scalar("memory/peak_MiB", timing.peak_bytes * MEBIBYTES, step)
    for found in made.distributions:
        if found.role == role and found.counts:
            sums = found.total, found.squares
            _histogram(writer, tag(found.kind, found.name), found.edges, found.counts, sums, step)


def tag(kind: str, name: str) -> str:
    """A tag in the group of its kind; TensorBoard takes letters, digits and `._-/`.

    Where more than spaces are lost, a hash tells it from others.
    """
    spaced = name.replace(" ", "_")
    kept = re.sub(r"[^A-Za-z0-9._/-]+", "_", spaced)
    return f"{kind}/{kept}" if kept == spaced else f"{kind}/{kept}-{_hash(name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _histogram(
    writer: Any,
    name: str,
    edges: Sequence[float],
    counts: Sequence[int],
    sums: tuple[float, float],
    step: int,
) -> None:
    """A histogram as it was recorded; the sums are of the values and of their squares."""
    writer.add_histogram_raw(
        name,
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sums[0],
        sum_squares=sums[1],
        bucket_limits=list(edges[1:]),
        bucket_counts=list(counts),
        global_step=step,
    )


def _logarithms(writer: Any, name: str, values: Iterable[float], step: int) -> None:
    """The decimal logarithms of figures; zeros and what is no number have none."""
    powers = np.array([math.log10(value) for value in values if 0 < value < math.inf])
    if powers.size:
        sums = float(powers.sum()), float(np.square(powers).sum())
        _histogram(writer, tag("log10", name), *histogram(powers), sums, step)
