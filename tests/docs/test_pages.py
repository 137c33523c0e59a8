"""Every code block of the README and the documentation is run, in the order of its page."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import stories
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
WORKFLOWS = sorted((ROOT / "docs" / "ci").glob("*.yml"))
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


@every_page
def test_every_block_of_a_page_does_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, object] = {"__name__": "page"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    printed_later = []
    for block in stories.blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title:
            write(block, tmp_path)
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "console":
            for command in stories.commands(block):
                follow(command, block, where, tmp_path)
        elif block.language == "text" and block.command:
            printed_later.append((block, where))
        else:
            pytest.fail(f"{where}: a {block.language!r} block that no test runs")

    for block, where in printed_later:
        lines = ("...", *block.text.splitlines())
        follow(stories.Command(block.command, lines), block, where, tmp_path)


def write(block: stories.Block, folder: Path) -> None:
    """A file of the story; what can be parsed must parse."""
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    if path.suffix == ".toml":
        tomllib.loads(block.text)
    elif path.suffix in (".yml", ".yaml"):
        yaml.safe_load(block.text)
    elif path.suffix == ".py":
        compile(block.text, block.title, "exec")


def follow(command: stories.Command, block: stories.Block, where: str, folder: Path) -> None:
    """Run a command; its status and its lines must be those of the page."""
    if command.text == "pip install -e .":
        stories.install(folder)
    if not stories.is_run(command.text):
        return
    ended = stories.run(command.text, folder)
    printed = ended.stdout + ended.stderr
    assert ended.returncode == block.exit, f"{where}: $ {command.text}\n{printed}"
    line = stories.missing(command.expected, printed)
    assert line is None, f"{where}: $ {command.text}\nnot printed: {line}\nprinted:\n{printed}"


def extras() -> set[str]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(data["project"]["optional-dependencies"])


@every_page
def test_what_the_pages_install_and_make_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for names in re.findall(r"pytest-fwcompare\[([\w,]+)\]", text):
        assert set(names.split(",")) <= extras()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for target in re.findall(r"^\$ make ([\w-]+)", text, re.M):
        assert target in targets


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """What `pytest --help` lists."""
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    return set(re.findall(r"--fwcompare[\w-]*", shown.stdout))


@every_page
def test_the_options_that_the_pages_name_exist(page: Path, known_options: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"--fwcompare[\w-]*[a-z]", text)) <= known_options


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.\w+)(?:#[\w-]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_is_built_and_has_every_page(tmp_path: Path) -> None:
    """Strictly: a dead link or a page outside the navigation ends the build."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    for page in (ROOT / "docs").glob("*.md"):
        place = tmp_path if page.stem == "index" else tmp_path / page.stem
        assert (place / "index.html").is_file(), page.name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "ci").glob("*.yml")), ids=lambda p: p.name
)
def test_the_workflows_run_commands_that_exist(
    path: Path, tmp_path: Path, known_options: set[str]
) -> None:
    """A workflow's pytest commands run here in its order, on a project of one test."""
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"--fwcompare[\w-]*[a-z]", text)) <= known_options
    (tmp_path / "test_net.py").write_text(PROJECT)
    steps = yaml.safe_load(text)["jobs"]["compare"]["steps"]
    lines = [step["run"] for step in steps if step.get("run", "").startswith("pytest ")]
    assert len(lines) == 2
    for line in reversed(lines):  # the baseline is made before it is held against
        ended = stories.run(line, tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in ("drift.json", "run.json", "run.html", "card.md", "junit.xml"):
        assert (tmp_path / name).is_file()


PROJECT = """
import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn

def test_net(fwcompare_port):
    net = fwc.NumpyFunction(lambda x: x * 2)
    fwcompare_port(net, net, inputs={"x": fwc.TensorSpec(("batch", 3))}, checks=("forward",))
"""
