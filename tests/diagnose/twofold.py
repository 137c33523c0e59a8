"""One function of a namespace and of parameters, run by torch and by JAX, and diagnosed.

A network is written once, as a function `middle(np, p, *inputs)` of a namespace with the names of
NumPy, of parameters by name and of arrays. So it can be tried as torch against torch, torch
against JAX and JAX against torch, whose records have little in common: calls and primitives.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from passes import asked, given, recorded

PAIRS = (("torch", "torch"), ("torch", "jax"), ("jax", "torch"))


def each_with_pairs(names):
    """Every name with torch on both sides, and with JAX on one of them, in turn."""
    return [
        (name, pair)
        for number, name in enumerate(names)
        for pair in (PAIRS[0], PAIRS[1 + number % 2])
    ]


def torch_names():
    """Torch under the names that the functions use."""
    import torch
    from torch.nn import functional as F

    return SimpleNamespace(
        name="torch",
        array=lambda a, like: torch.as_tensor(np.asarray(a), dtype=like.dtype),
        arange=lambda n, like: torch.arange(n, dtype=like.dtype),
        indices=torch.as_tensor,
        bools=lambda a: torch.as_tensor(np.asarray(a, bool)),
        where=lambda c, x, y: torch.where(c, x, torch.as_tensor(y, dtype=x.dtype)),
        einsum=torch.einsum,
        softmax=lambda x: torch.softmax(x, -1),
        tanh=torch.tanh,
        gelu=F.gelu,
        sin=torch.sin,
        cos=torch.cos,
        cat=lambda parts, axis: torch.cat(parts, axis),
        stack=lambda parts, axis: torch.stack(parts, axis),
        turn=lambda x, *axes: x.permute(*axes),
        swap=lambda x: x.transpose(-1, -2),
        each=lambda x, times, axis: torch.repeat_interleave(x, times, dim=axis),
        tile=lambda x, *times: x.repeat(*times),
        roll=lambda x, shift, axes: torch.roll(x, shift, axes),
        sqrt=torch.sqrt,
        exp=torch.exp,
        log=torch.log,
        round=torch.round,
        relu=torch.relu,
        norm=lambda x, g, b: F.layer_norm(x, x.shape[-1:], g, b, 1e-5),
        linear=F.linear,
        mean=lambda x, axis: x.mean(axis),
    )


def jax_names():
    """JAX under the names that the functions use."""
    import jax
    import jax.numpy as jnp

    def norm(x, g, b):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b

    def linear(x, w, b=None):
        return x @ w.T if b is None else x @ w.T + b

    return SimpleNamespace(
        name="jax",
        array=lambda a, like: jnp.asarray(a, like.dtype),
        arange=lambda n, like: jnp.arange(n, dtype=like.dtype),
        indices=lambda a: a,
        bools=lambda a: jnp.asarray(np.asarray(a, bool)),
        where=jnp.where,
        einsum=jnp.einsum,
        softmax=lambda x: jax.nn.softmax(x, -1),
        tanh=jnp.tanh,
        gelu=lambda x: jax.nn.gelu(x, approximate=False),
        sin=jnp.sin,
        cos=jnp.cos,
        cat=jnp.concatenate,
        stack=jnp.stack,
        turn=lambda x, *axes: x.transpose(axes),
        swap=lambda x: jnp.swapaxes(x, -1, -2),
        each=lambda x, times, axis: jnp.repeat(x, times, axis),
        tile=lambda x, *times: jnp.tile(x, times),
        roll=jnp.roll,
        sqrt=jnp.sqrt,
        exp=jnp.exp,
        log=jnp.log,
        round=jnp.round,
        relu=jax.nn.relu,
        norm=norm,
        linear=linear,
        mean=lambda x, axis: x.mean(axis),
    )


def drawn(sizes, seed=3):
    """Parameters by name from shapes by name: norms near one, matrices that keep the scale."""
    generator = np.random.default_rng(seed)
    made = {}
    for name, shape in sizes.items():
        value = generator.normal(size=shape)
        if len(shape) > 1:
            value *= (2.0 / np.prod(shape[1:])) ** 0.5
        made[name] = (value + ("gain" in name)).astype(np.float32)
    return made


def _torch_model(middle, weights):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in weights.items():
                self.register_parameter(name, nn.Parameter(torch.from_numpy(value.copy())))

        def forward(self, *inputs):
            return middle(torch_names(), dict(self.named_parameters()), *inputs)

    return Net().eval()


def side_of(framework, middle, weights):
    """The function as a side of a framework."""
    if framework == "torch":
        from pytest_fwcompare.backends.torch import TorchBackend

        model = _torch_model(middle, weights)
        return TorchBackend().adopt(model, dtype="float32", device="cpu", mode="eager", own=True)
    import jax.numpy as jnp

    from pytest_fwcompare.backends.jax import JaxBackend

    pair = (
        lambda p, *inputs: middle(jax_names(), p, *inputs),
        {name: jnp.asarray(value) for name, value in weights.items()},
    )
    return JaxBackend().adopt(pair, dtype="float32", device="cpu", mode="eager", own=False)


def diagnose_twofold(reference, port, pair, sizes, *inputs):
    """Diagnosis of two functions, each in the framework that the pair names for it."""
    weights = drawn(sizes)
    arguments = given(inputs)
    passes, gradients, sides = [], [], []
    for framework, middle in zip(pair, (reference, port), strict=True):
        side = side_of(framework, middle, weights)
        made, found = recorded(side, arguments)
        gradients.append({name.strip("[']\""): value for name, value in found.items()})
        passes.append(made)
        sides.append(side)
    mismatch = {}
    for name, mine in gradients[0].items():
        other = gradients[1].get(name)
        mine = np.zeros_like(weights[name], float) if mine is None else np.asarray(mine)
        obtained = np.zeros_like(mine) if other is None else np.asarray(other)
        if np.abs(mine - obtained).max() > 1e-6 * np.abs(mine).max() + 1e-10:
            mismatch[name] = (mine, obtained)
    return asked(sides, passes, mismatch)
