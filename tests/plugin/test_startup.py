"""Loading the plugin imports no framework and no Hypothesis; it is loaded by every pytest run."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "tensorflow", "keras", "jax", "hypothesis", "numpy", "autograd")
"""NumPy too: it costs more than everything else the plugin does at startup."""

TELL = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


def imported_by(code: str) -> list[str]:
    """Which of the heavy modules a fresh interpreter has after running some code."""
    command = [sys.executable, "-c", f"{code}\n{TELL}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[str] = eval(done.stdout.splitlines()[-1])
    return found


LOADS = {
    "the package": "import pytest_fwcompare",
    "the plugin": "import pytest_fwcompare.plugin",
    "pytest with it": (
        "import pytest, sys\n"
        "assert pytest.main(['--collect-only', '-q', '-p', 'no:hypothesispytest', "
        "'-p', 'no:jaxtyping', '-p', 'no:cacheprovider', '--rootdir=.', 'empty']) == 5\n"
        "assert 'pytest_fwcompare.plugin' in sys.modules"
    ),
}


@pytest.mark.parametrize("code", LOADS.values(), ids=LOADS)
def test_nothing_heavy_is_imported(
    code: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.mkdir("empty")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    assert imported_by(code) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pytest_fwcompare; pytest_fwcompare.TensorSpec", []),
        ("import hypothesis", ["hypothesis"]),
        ("import pytest_fwcompare; pytest_fwcompare.networks", None),
        ("import pytest_fwcompare.backends.registry", ["numpy"]),
    ],
    ids=["a light name", "planted", "the networks", "NumPy by a backend"],
)
def test_the_test_above_can_fail(code: str, expected: list[str] | None) -> None:
    found = imported_by(code)
    if expected is None:
        assert "torch" not in found
        assert "tensorflow" not in found
    else:
        assert found == expected


def test_collecting_comparisons_imports_no_framework(pytester: pytest.Pytester) -> None:
    """Also with `--fwcompare`: frameworks are imported by the tests that run in them."""
    pytester.makepyfile("def test_net(fwcompare_network): pass")
    code = (
        "import pytest\n"
        "assert pytest.main(['--fwcompare', '--collect-only', '-p', 'no:hypothesispytest', "
        "'-p', 'no:jaxtyping']) == 0"
    )
    assert imported_by(code) == ["numpy"]
