"""Weights: parameter trees, documented layouts, the mapping from reference to port."""

from pytest_fwcompare.weights.automatic import automatic_mapping
from pytest_fwcompare.weights.copying import mapping_by_copy
from pytest_fwcompare.weights.explicit import explicit_mapping
from pytest_fwcompare.weights.guess import candidates
from pytest_fwcompare.weights.mapping import Evidence, Link, Mapping
from pytest_fwcompare.weights.randomise import randomise

__all__ = [
    "Evidence",
    "Link",
    "Mapping",
    "automatic_mapping",
    "candidates",
    "explicit_mapping",
    "mapping_by_copy",
    "randomise",
]
