"""Options, ini twins and the marker: which items there are, and what they are called."""

from __future__ import annotations

from collections.abc import Callable

import pytest

BOTH = """
import pytest

def test_net(fwcompare_network): pass
def test_port(fwcompare_port): pass
def test_build(fwcompare_build): pass
def test_build_and_port(fwcompare_build, fwcompare_port): pass
"""


def ids(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    result = pytester.runpytest("--collect-only", "-q", *arguments)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_help_names_every_option_and_ini_twin(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--help")
    result.stdout.fnmatch_lines(
        [
            "comparison of networks between frameworks:",
            "  --fwcompare *Run the comparisons; without it they are skipped.",
            "  --fwcompare-frameworks=NAMES",
            "  --fwcompare-devices=NAMES",
            "  --fwcompare-dtypes=NAMES",
            "  --fwcompare-modes=NAMES",
            "  --fwcompare-examples=N",
            "  --fwcompare-no-timings",
            "  --fwcompare-report=PATH",
            "  --fwcompare-tensorboard=DIR",
            "  --fwcompare-repro=DIR*",
            "  --fwcompare-fail-on=CONDITIONS",
            "  --fwcompare-baseline=PATH",
            "  --fwcompare-update-baseline",
            "  --fwcompare-prune-baseline",
            "  --fwcompare-record=DIR",
            "  --fwcompare-replay=DIR",
        ]
    )
    for name in (
        "frameworks",
        "devices",
        "dtypes",
        "modes",
        "examples",
        "fail_on",
        "report",
        "tensorboard",
        "baseline",
        "record",
        "replay",
    ):
        result.stdout.fnmatch_lines([f"  fwcompare_{name} (*"])
    result.stdout.fnmatch_lines(["  fwcompare (bool):*"])
    for name in ("no_timings", "update_baseline", "prune_baseline"):
        result.stdout.fnmatch_lines([f"  fwcompare_{name} (bool):*"])


def test_the_marker_is_listed(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.fwcompare(frameworks, devices, dtypes, modes, examples): narrows *"]
    )


def test_ids_carry_the_axes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(BOTH)
    assert ids(pytester, "--fwcompare-frameworks=keras,torch", "--fwcompare-modes=graph") == [
        "test_net[keras-cpu-float32-graph]",
        "test_net[torch-cpu-float32-graph]",
        "test_port[cpu-float32-graph]",
        "test_build[cpu-float32]",
        "test_build_and_port[cpu-float32-graph]",
    ]


def test_ids_are_the_same_without_the_option(pytester: pytest.Pytester) -> None:
    """So that one that an editor found can be run by name with it."""
    pytester.makepyfile(BOTH)
    assert ids(pytester) == ids(pytester, "--fwcompare")


def test_numpy_is_the_reference_and_judged_only_if_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_net(fwcompare_network): pass")
    assert not any("[numpy-" in name for name in ids(pytester))
    assert ids(pytester, "--fwcompare-frameworks=numpy") == ["test_net[numpy-cpu-float32-eager]"]


def test_axes_multiply_with_parameters_of_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [1, 2])
        def test_port(fwcompare_port, n): pass
        """
    )
    found = ids(pytester, "--fwcompare-dtypes=float32,float64")
    assert len(found) == 4
    assert all("cpu-float" in name for name in found)


@pytest.mark.parametrize(
    ("ini", "expected"),
    [
        ("fwcompare_frameworks = torch,jax", ["torch-cpu-float32-eager", "jax-cpu-float32-eager"]),
        ("fwcompare_devices = cuda:1", ["torch-cuda:1-float32-eager"]),
        (
            "fwcompare_dtypes = float64 bfloat16",
            ["torch-cpu-float64-eager", "torch-cpu-bfloat16-eager"],
        ),
        ("fwcompare_modes = compiled", ["torch-cpu-float32-compiled"]),
    ],
    ids=["frameworks", "devices", "dtypes", "modes"],
)
def test_ini_twins_of_the_axes(pytester: pytest.Pytester, ini: str, expected: list[str]) -> None:
    pytester.makepyfile("def test_net(fwcompare_network): pass")
    pytester.makeini(f"[pytest]\n{ini}\n")
    options = [] if "frameworks" in ini else ["--fwcompare-frameworks=torch"]
    assert ids(pytester, *options) == [f"test_net[{name}]" for name in expected]


def test_the_command_line_outweighs_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_port(fwcompare_port): pass")
    pytester.makeini("[pytest]\nfwcompare_dtypes = float64\n")
    assert ids(pytester, "--fwcompare-dtypes=float32") == ["test_port[cpu-float32-eager]"]


def test_the_other_ini_twins(project: pytest.Pytester, asked: Callable[[], list[str]]) -> None:
    project.makepyfile(
        """
        def test_precision(fwcompare_port):
            fwcompare_port("reference", "precision", inputs={})
        """
    )
    project.makeini(
        "[pytest]\nfwcompare = true\nfwcompare_examples = 3\nfwcompare_no_timings = true\n"
        "fwcompare_fail_on = semantic\nfwcompare_report = run.json\n"
    )
    project.runpytest().assert_outcomes(passed=1)
    assert "('examples', 3)" in asked()[0]
    assert "('timings', False)" in asked()[0]
    assert (project.path / "run.json").exists()


@pytest.mark.parametrize(
    ("verdict", "option", "outcomes"),
    [
        ("subgradient", [], {"passed": 1}),
        ("subgradient", ["--fwcompare-fail-on=subgradient"], {"failed": 1}),
        ("precision", [], {"failed": 1}),
        ("precision", ["--fwcompare-fail-on=semantic,error"], {"passed": 1}),
        ("nonfinite", [], {"failed": 1}),
        ("error", [], {"failed": 1}),
    ],
)
def test_which_verdicts_fail(
    project: pytest.Pytester, verdict: str, option: list[str], outcomes: dict[str, int]
) -> None:
    project.makepyfile(
        f"def test_it(fwcompare_port): fwcompare_port('reference', {verdict!r}, inputs={{}})"
    )
    project.runpytest("--fwcompare", *option).assert_outcomes(**outcomes)


@pytest.mark.parametrize(
    ("marker", "options", "expected"),
    [
        ("frameworks='torch'", [], ["torch-cpu-float32-eager"]),
        ("frameworks='torch'", ["--fwcompare-frameworks=jax,torch"], ["torch-cpu-float32-eager"]),
        (
            "frameworks=['jax', 'torch'], dtypes=['float64']",
            [],
            ["jax-cpu-float64-eager", "torch-cpu-float64-eager"],
        ),
        ("frameworks='torch'", ["--fwcompare-frameworks=jax"], ["none"]),
    ],
    ids=["default", "option", "two axes", "nothing left"],
)
def test_the_marker_narrows(
    pytester: pytest.Pytester, marker: str, options: list[str], expected: list[str]
) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.fwcompare({marker})\ndef test_net(fwcompare_network): pass"
    )
    assert ids(pytester, *options) == [f"test_net[{name}]" for name in expected]


def test_the_closest_marker_has_the_last_word_for_each_key(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.fwcompare(dtypes="float64", modes="graph")

        @pytest.mark.fwcompare(dtypes="float32")
        def test_port(fwcompare_port): pass
        """
    )
    assert ids(pytester) == ["test_port[cpu-float32-graph]"]


def test_examples_come_from_the_command_line_the_marker_the_ini_file_in_that_order(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.fwcompare(examples=5)
        def test_marked(fwcompare_port): fwcompare_port("reference", "equivalent", inputs={})

        def test_plain(fwcompare_port): fwcompare_port("reference", "equivalent", inputs={})
        """
    )
    project.makeini("[pytest]\nfwcompare_examples = 9\n")
    project.runpytest("--fwcompare")
    project.runpytest("--fwcompare", "--fwcompare-examples=2")
    numbers = [line.split("('examples', ")[1].split(")")[0] for line in asked()]
    assert numbers == ["5", "9", "2", "2"]


def test_a_failure_says_how_to_run_it_again(project: pytest.Pytester) -> None:
    project.makepyfile(
        "def test_it(fwcompare_port): fwcompare_port('reference', 'semantic', inputs={})"
    )
    result = project.runpytest("--fwcompare", "--fwcompare-dtypes=float64")
    result.stdout.fnmatch_lines(
        [
            "E *replay *pytest --fwcompare --fwcompare-dtypes=float64 "
            "'test_a_failure_says_how_to_run_it_again.py::test_it[[]cpu-float64-eager[]]'"
        ]
    )
