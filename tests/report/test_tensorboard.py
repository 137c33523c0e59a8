"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from events import Run

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.tensorboard import folder_name, tag, without_torch, write_events

EVERYTHING = Result("t.py::test_port", "t.py::test_port", 1, 1, samples.everything())
FOLDER = folder_name(EVERYTHING.test)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("events")
    write_events(folder, [EVERYTHING])
    assert [path.name for path in folder.iterdir()] == [FOLDER]
    return {path.name: Run(path) for path in (folder / FOLDER).iterdir()}


def near(value: float) -> Any:
    """Event files keep single precision."""
    return pytest.approx(value, rel=1e-6)


def test_each_side_is_a_run(runs: dict[str, Run]) -> None:
    assert set(runs) == {"reference torch", "port tensorflow"}


def test_gap_and_noise_of_each_tensor(runs: dict[str, Run]) -> None:
    port, reference = runs["port tensorflow"], runs["reference torch"]
    for row in EVERYTHING.comparison.tensors:
        assert port.scalar(tag("gap", row.name)) == near(row.gap)
        assert port.scalar(tag("ulp", row.name)) == near(row.ulp)
        assert port.scalar(tag("jitter", row.name)) == near(row.jitter)
        assert port.scalar(tag("noise", row.name)) == near(row.port_noise)
        assert reference.scalar(tag("noise", row.name)) == near(row.reference_noise)
    assert port.scalar("largest/gap") == near(2.3e-3)
    assert port.scalar("largest/noise") == near(1.3e-7)


def test_histograms_of_figures_are_of_their_logarithms(runs: dict[str, Run]) -> None:
    found = runs["port tensorflow"].histogram("log10/gap")
    powers = [math.log10(row.gap) for row in EVERYTHING.comparison.tensors]
    assert (found.min, found.max, found.num) == (near(min(powers)), near(max(powers)), 3)
    ratios = runs["port tensorflow"].histogram("log10/gap_over_what_rounding_explains")
    assert ratios.num == 2  # zero and infinity have no logarithm


def test_parameters_and_gradients_stand_side_by_side(runs: dict[str, Run]) -> None:
    for run in runs.values():
        for kind in ("parameter", "gradient"):
            found = run.histogram(f"{kind}/fc.weight")
            assert (found.min, found.max, found.num) == (-1, 1, 4)
            assert (found.sum, found.sum_squares) == (-1.25, 1.5)
            assert sum(found.bucket) == 4


def test_times_and_memory(runs: dict[str, Run]) -> None:
    reference, port = runs["reference torch"], runs["port tensorflow"]
    assert reference.scalar("time/forward_ms") == near(1.0)
    assert port.scalar("time/forward_ms") == near(2.5)
    assert port.scalar("time/backward_ms") == near(5.0)
    assert port.scalar("time/first_call_ms") == near(250.0)
    assert reference.scalar("memory/peak_MiB") == near(1.0)
    assert port.scalar("time/ratio") == near(2.45)
    assert port.scalar("time/device_ms") == near(1.5)
    assert "time/host_ms" not in port.tags["scalars"]
    assert "memory/peak_MiB" not in port.tags["scalars"]


def test_the_summary_is_text_that_nothing_takes_for_markup(runs: dict[str, Run]) -> None:
    text = runs["port tensorflow"].text("summary/text_summary")
    assert text.startswith("    semantic: the tensorflow port does not compute")
    assert all(line.startswith("    ") for line in text.splitlines())


def test_a_second_run_is_the_next_step(tmp_path: Path) -> None:
    for _ in range(2):
        write_events(tmp_path, [EVERYTHING])
    found = Run(tmp_path / FOLDER / "port tensorflow").scalars("largest/gap")
    assert found == [(0, near(2.3e-3)), (1, near(2.3e-3))]


def test_what_was_not_compared_has_no_figures(tmp_path: Path) -> None:
    write_events(tmp_path, [samples.run()[3]])
    (folder,) = tmp_path.iterdir()
    assert Run(folder / "port unknown").tags["scalars"] == []


@pytest.mark.parametrize(
    "hostile",
    ["../../up", "a/b\\c", "..", samples.HOSTILE, "x" * 4000, "\ud800", "\u00fc" * 200, "a::b"],
)
def test_a_folder_s_name_is_harmless_and_its_own(hostile: str) -> None:
    name = folder_name(hostile)
    assert "/" not in name
    assert "\\" not in name
    assert name not in ("", ".", "..")
    assert len(name.encode()) <= 255
    assert folder_name(hostile + "!") != name


def test_tags_of_different_names_differ() -> None:
    assert tag("gap", "output scores") == "gap/output_scores"
    assert tag("gap", "a:b") != tag("gap", "a;b")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match=r"tensorboard: .*file"):
        write_events(file / "deeper", [EVERYTHING])


def test_writing_imports_no_framework(tmp_path: Path) -> None:
    """tensorboardX alone imports torch where there is one."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); import samples; from pathlib import Path\n"
        "from pytest_fwcompare.report.tensorboard import write_events\n"
        f"write_events(Path({str(tmp_path)!r}), samples.run())\n"
        "print([name for name in ('torch', 'tensorflow', 'jax', 'keras') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_torch_can_be_imported_afterwards() -> None:
    with without_torch():
        pass
    import torch

    assert torch.tensor(np.ones(1)).sum() == 1
