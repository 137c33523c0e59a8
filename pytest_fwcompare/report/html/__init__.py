"""The HTML report: one file that works offline, with no script in it."""

from __future__ import annotations

from pytest_fwcompare.report.html.page import run_to_html

__all__ = ["run_to_html"]
