"""Saved forms of Keras models."""

from __future__ import annotations

from typing import Any

import keras


def load(path: str) -> Any:
    """A model from a `.keras` file, without its optimizer."""
    return keras.models.load_model(path, compile=False)
