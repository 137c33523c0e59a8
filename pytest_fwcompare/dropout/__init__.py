"""Dropout compared fairly: what is dropped comes from one stream, on both sides."""

from __future__ import annotations

from pytest_fwcompare.dropout.masks import Draws, Masks, Site, current, sharing

__all__ = ["Draws", "Masks", "Site", "current", "sharing"]
