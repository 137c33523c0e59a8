"""Framework-neutral descriptions of networks. No framework is needed to make one."""

from pytest_fwcompare.networks import zoo
from pytest_fwcompare.networks.base import Layer, Node, ParameterSpec
from pytest_fwcompare.networks.graph import Graph, Input, Network, Sequential, Step
from pytest_fwcompare.networks.layers import *  # noqa: F403
from pytest_fwcompare.networks.layers import __all__ as _layers
from pytest_fwcompare.networks.random import random_parameters

__all__ = [
    "Graph",
    "Input",
    "Layer",
    "Network",
    "Node",
    "ParameterSpec",
    "Sequential",
    "Step",
    "random_parameters",
    "zoo",
    *_layers,
]
