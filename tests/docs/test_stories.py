"""The reader of the documentation notices what a page says wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
import stories

PAGE = """
# A page

```python title="a.py"
print(1)
```

<!-- exit 3 -->

```console
$ python a.py
1
$ false
```
"""


def test_blocks_carry_title_language_line_and_exit(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    file, console = stories.blocks(page)
    assert (file.language, file.title, file.line, file.exit) == ("python", "a.py", 4, 0)
    assert (console.language, console.title, console.exit) == ("console", "", 3)
    assert stories.commands(console) == [
        stories.Command("python a.py", ("1",)),
        stories.Command("false", ()),
    ]


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (("gap 1e-3",), "gap 2.5e-4\n"),
        (("a", "...", "z"), "a\nb\nc\nz"),
        (("a 1.0 s ...",), "a 2.0 s and more"),
        (("=== 1 passed in 0.1s ===",), "======= 1 passed in 20.3s ====="),
        (("1 passed in 0.1s",), "1 passed in 81.5s (0:01:21)"),
    ],
)
def test_what_is_printed_as_said_is_accepted(expected: tuple[str, ...], printed: str) -> None:
    assert stories.missing(expected, printed) is None


@pytest.mark.parametrize(
    ("expected", "printed", "line"),
    [
        (("semantic",), "equivalent", "semantic"),
        (("a", "c"), "a\nb\nc", "c"),
        (("a", "...", "z"), "z\na", "z"),
        (("1 failed",), "1 passed", "1 failed"),
        (("3 passed in 1.0s",), "2 passed in 1.0s", "3 passed in 1.0s"),
    ],
)
def test_what_is_printed_otherwise_is_named(
    expected: tuple[str, ...], printed: str, line: str
) -> None:
    assert stories.missing(expected, printed) == line
