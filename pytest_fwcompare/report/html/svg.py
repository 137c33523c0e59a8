"""Draws a chart as SVG that stands in a page: no script, no font, no address to load from."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from pytest_fwcompare.report.html.charts import CONFIG
from pytest_fwcompare.report.html.plain import plain

SVG = "{http://www.w3.org/2000/svg}"
DROPPED = ("role", "aria-roledescription", "aria-hidden", "pointer-events", "class", "font-family")
"""What Vega writes for its own viewer; the page has one description and one font for a chart."""

PLAIN = ("opacity", "fill-opacity", "stroke-opacity", "stroke-width")
"""Attributes whose 1 is SVG's own default."""

FRAMES = ("background", "foreground")
"""Invisible areas that only Vega's own viewer needs."""


def draw(spec: dict[str, Any], says: str) -> str:
    """The chart as an `<svg>` element.

    Args:
        spec: a Vega-Lite description with its data in it.
        says: what the chart shows, for those who do not see it.

    Returns:
        Markup in which all text is escaped. Marks that have a description show it when pointed at.
    """
    import vl_convert

    # No base address is allowed, so that a chart could not load anything if it wanted to.
    text = vl_convert.vegalite_to_svg(plain({**spec, "config": CONFIG}), allowed_base_urls=[])
    ElementTree.register_namespace("", SVG[1:-1])
    root = ElementTree.fromstring(text)
    _tidy(root)
    root.set("role", "img")
    root.set("aria-label", plain(says))
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element) -> None:
    """Descriptions become titles, which browsers show; marks of Vega's own viewer go."""
    described = element.attrib.pop("aria-label", None)
    for name in DROPPED:
        element.attrib.pop(name, None)
    for name in PLAIN:
        if element.get(name) == "1":
            del element.attrib[name]
    for child in list(element):
        if child.get("class") in FRAMES or child.get("display") == "none":
            element.remove(child)
        else:
            _tidy(child)
    if described and element.tag == f"{SVG}path":
        title = ElementTree.Element(f"{SVG}title")
        title.text = described
        element.insert(0, title)
