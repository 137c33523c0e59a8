"""`--fwcompare-repro`: where each failing comparison is told to write its script."""

from __future__ import annotations

from collections.abc import Callable

import pytest

TWO = """
import pytest

@pytest.mark.parametrize("size", [1, "a/b"])
def test_wrong(fwcompare_port, size):
    fwcompare_port("reference", "equivalent", inputs={})
    fwcompare_port("reference", "semantic", inputs={})
"""


def folders(lines: list[str]) -> list[str]:
    """Names of the folders that `compare` was given."""
    return [line.split("PosixPath('")[1].split("'")[0] for line in lines]


def test_every_comparison_has_a_folder_of_its_own(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makepyfile(test_ports=TWO)
    project.runpytest("--fwcompare", "--fwcompare-repro=shown").assert_outcomes(failed=2)
    found = folders(asked())
    assert len(set(found)) == 4
    base = str(project.path / "shown" / "test_ports.py-test_wrong-")
    assert all(name.startswith(base) for name in found)
    assert [name.endswith("-2") for name in found] == [False, True, False, True]
    assert not any("a/b" in name for name in found)


def test_the_ini_twin_counts_from_the_ini_file(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makeini("[pytest]\nfwcompare_repro = shown\n")
    project.makepyfile(test_ports=TWO)
    project.runpytest("--fwcompare")
    assert all(name.startswith(str(project.path / "shown")) for name in folders(asked()))


def test_without_the_option_nothing_is_written(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makepyfile(test_ports=TWO)
    project.runpytest("--fwcompare")
    assert asked()
    assert not any("repro" in line for line in asked())


def test_a_file_is_no_folder(project: pytest.Pytester) -> None:
    project.makepyfile(test_ports=TWO)
    (project.path / "taken").write_text("")
    result = project.runpytest("--fwcompare", "--fwcompare-repro=taken")
    result.stderr.fnmatch_lines(["*--fwcompare-repro=taken: expected a folder, this is a file"])
