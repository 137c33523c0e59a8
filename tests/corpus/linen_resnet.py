"""A residual image classifier with batch norms: flax linen to torch."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

WIDTH, CLASSES = 6, 4


class Block(linen.Module):
    """Images (batch, h, w, 6) to (batch, h / 2, w / 2, 12)."""

    kind: str

    @linen.compact
    def __call__(self, x):
        dtype = jnp.dtype(self.kind)
        how = {"use_running_average": True, "param_dtype": dtype}
        y = linen.Conv(2 * WIDTH, (3, 3), 2, "SAME", param_dtype=dtype, name="conv1")(x)
        y = linen.relu(linen.BatchNorm(**how, name="norm1")(y))
        y = linen.Conv(
            2 * WIDTH, (3, 3), padding=((1, 1), (1, 1)), param_dtype=dtype, name="conv2"
        )(y)
        y = linen.BatchNorm(**how, name="norm2")(y)
        short = linen.Conv(2 * WIDTH, (1, 1), 2, use_bias=False, param_dtype=dtype, name="short")(
            x
        )
        return linen.relu(y + short)


class Classifier(linen.Module):
    """Images (batch, 8, 8, 3) to scores (batch, 4)."""

    kind: str

    @linen.compact
    def __call__(self, x):
        dtype = jnp.dtype(self.kind)
        x = linen.Conv(WIDTH, (5, 5), padding="SAME", param_dtype=dtype, name="stem")(x)
        x = linen.LayerNorm(param_dtype=dtype, name="norm")(x)
        x = linen.gelu(x)
        x = linen.avg_pool(x, (3, 3), (1, 1), padding=((1, 1), (1, 1)))
        x = Block(self.kind, name="block")(x)
        x = x.reshape(x.shape[0], -1)
        return linen.Dense(CLASSES, param_dtype=dtype, name="head")(x)


class Half(nn.Module):
    """The port's block."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.a = nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=int(option == "padding-both"))
        self.an = nn.BatchNorm2d(2 * WIDTH, eps=1e-3 if option == "batch-epsilon" else 1e-5)
        self.b = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1)
        self.bn = nn.BatchNorm2d(2 * WIDTH, eps=1e-5)
        self.s = nn.Conv2d(WIDTH, 2 * WIDTH, 1, stride=2, bias=False)

    def forward(self, x):
        y = x if self.option == "padding-both" else F.pad(x, (0, 1, 0, 1))
        y = F.relu(self.an(self.a(y)))
        y = self.bn(self.b(y))
        if self.option == "relu-before-sum":
            return F.relu(y) + self.s(x)
        return F.relu(y + self.s(x))


class Port(nn.Module):
    """The port, in NCHW."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.enter = nn.Conv2d(3, WIDTH, 5, padding=2)
        self.ln = nn.LayerNorm(WIDTH, eps=1e-5 if option == "layer-epsilon" else 1e-6)
        self.core = Half(option)
        self.fc = nn.Linear(2 * WIDTH * 16, CLASSES)

    def forward(self, x):
        option = self.option
        x = self.ln(self.enter(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = F.gelu(x, approximate="none" if option == "gelu-erf" else "tanh")
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=option != "border-left-out")
        x = self.core(x)
        if option != "flatten-nchw":
            x = x.permute(0, 2, 3, 1)
        return self.fc(x.flatten(1))


def make_reference(dtype="float32"):
    kind = jax_in(dtype)
    module = Classifier(dtype)
    variables = module.init(jax.random.key(4), jnp.zeros((1, 8, 8, 3), kind))
    keys = iter(jax.random.split(jax.random.key(9), 99))

    def trained(path, x):
        noise = 0.3 * jax.random.normal(next(keys), x.shape, kind)
        return jnp.abs(x + noise) + 0.1 if "var" in str(path) else (x + noise).astype(kind)

    return module, jax.tree_util.tree_map_with_path(trained, variables)


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)))


def copy_weights(reference, port):
    params, stats = reference[1]["params"], reference[1]["batch_stats"]["block"]
    block = params["block"]
    for held, conv in (
        (params["stem"], port.enter),
        (block["conv1"], port.core.a),
        (block["conv2"], port.core.b),
        (block["short"], port.core.s),
    ):
        fill(conv.weight, np.asarray(held["kernel"]).transpose(3, 2, 0, 1))
        if "bias" in held:
            fill(conv.bias, held["bias"])
    fill(port.ln.weight, params["norm"]["scale"])
    fill(port.ln.bias, params["norm"]["bias"])
    for name, norm in (("norm1", port.core.an), ("norm2", port.core.bn)):
        fill(norm.weight, block[name]["scale"])
        fill(norm.bias, block[name]["bias"])
        fill(norm.running_mean, stats[name]["mean"])
        fill(norm.running_var, stats[name]["var"])
    fill(port.fc.weight, np.asarray(params["head"]["kernel"]).T)
    fill(port.fc.bias, params["head"]["bias"])


CASES = [
    PortCase(
        name="linen_resnet",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"image": Input(("batch", 8, 8, 3), axes="NHWC", port_axes="NCHW")},
        faults={
            "padding-both": Fault("semantic", "block.conv1", "padding"),
            "batch-epsilon": Fault("semantic", "block.norm1", "norm-epsilon"),
            "layer-epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "relu-before-sum": Fault("semantic", "block", "activation-place"),
            "gelu-erf": Fault("semantic", "", "activation-variant", between=("norm", "block")),
            "border-left-out": Fault("semantic", "", "pool-count", between=("norm", "block")),
            "flatten-nchw": Fault("semantic", "", "flatten-order", between=("block", "head")),
        },
    )
]
