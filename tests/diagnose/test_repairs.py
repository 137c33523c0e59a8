"""Each repair proves the fault it is for, on real recorded passes; other faults stay unexplained.

Both sides are torch modules, so values come from torch and not from the implementations that the
repairs use. Every network goes on behind the fault, as a cause must hold for what follows too.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(11)
FEATURES = RNG.normal(size=(4, 8))
SEQUENCE = RNG.normal(size=(3, 5, 8))
SIGNAL = RNG.normal(size=(3, 4, 12))
IMAGE = RNG.normal(size=(2, 4, 9, 8))
TOKENS = RNG.integers(0, 7, size=(3, 6))


class Chain(nn.Module):
    """A stem, the layer or function under test, and a head of its own."""

    def __init__(self, middle, stem=None, head=None):
        super().__init__()
        self.stem = stem or nn.Identity()
        self.middle = middle if isinstance(middle, nn.Module) else Call(middle)
        self.head = head or nn.Identity()

    def forward(self, *inputs):
        return torch.tanh(self.head(self.middle(self.stem(inputs[0]), *inputs[1:])))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def linears(middle):
    return Chain(middle, nn.Linear(8, 8), nn.Linear(8, 5))


def convs(middle):
    return Chain(middle, nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1))


def layer_norm_without(name):
    norm = nn.LayerNorm(8)
    setattr(norm, name, None)
    return norm


def without_bias(layer):
    layer.bias = None
    return layer


def transposed_norm(weight_axis):
    class Norm(nn.LayerNorm):
        def forward(self, x):
            mean = x.mean(weight_axis, keepdim=True)
            spread = x.var(weight_axis, keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(spread + self.eps) * self.weight + self.bias

    return Norm(8)


class Padded(nn.Conv1d):
    """A convolution over the past."""

    def __init__(self, *args, mode="constant", sides=(2, 0), **kwargs):
        super().__init__(*args, **kwargs)
        self.mode, self.sides = mode, sides

    def forward(self, x):
        return super().forward(F.pad(x, self.sides, mode=self.mode))


class Flipped(nn.ConvTranspose2d):
    def forward(self, x):
        weight = self.weight.flip(2, 3)
        return F.conv_transpose2d(
            x, weight, self.bias, self.stride, self.padding, self.output_padding
        )


class Crop(nn.ConvTranspose2d):
    """SAME as TensorFlow crops it."""

    def forward(self, x):
        whole = F.conv_transpose2d(x, self.weight, self.bias, self.stride)
        return whole[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


class Attention(nn.Module):
    """Self-attention with knobs."""

    def __init__(
        self,
        *,
        scale=2.0,
        axis=-1,
        order=(0, 1, 2),
        split="heads",
        mask="causal",
        fill=-1e30,
        temperature=1.0,
    ):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.scale, self.axis, self.order, self.split = scale, axis, order, split
        self.mask, self.fill, self.temperature = mask, fill, temperature

    def heads(self, x):
        if self.split == "heads":
            return x.unflatten(-1, (2, 4)).transpose(1, 2)
        return x.unflatten(-1, (4, 2)).permute(0, 3, 1, 2)

    def forward(self, x):
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (self.heads(parts[i]) for i in self.order)
        scores = q @ k.transpose(-1, -2) / self.scale
        size = scores.shape[-1]
        keep = torch.ones(size, size, dtype=torch.bool).tril()
        keep = {"causal": keep, "anti": keep.T, "inverted": ~keep}.get(self.mask)
        if self.mask == "shifted":
            keep = torch.ones(size, size, dtype=torch.bool).tril(1)
        if keep is not None:
            scores = scores.masked_fill(~keep, self.fill)
        weights = scores.softmax(self.axis)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Separate(nn.Module):
    """Self-attention with projections of their own, by hand or fused."""

    def __init__(self, *, exchanged=False, masked=False, fused=False):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.exchanged, self.masked, self.fused = exchanged, masked, fused

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (2, 4)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if self.exchanged:
            q, k = k, q
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / 2
            if self.masked:
                scores = scores + torch.where(mask, 0.0, -1e30)
            mixed = scores.softmax(-1) @ v
        return mixed.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """x + f(norm(x)) with knobs."""

    def __init__(self, source="input", scale=1.0, late=False):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.body = nn.Linear(8, 8)
        self.source, self.scale, self.late = source, scale, late

    def forward(self, x):
        y = self.norm(x)
        z = self.body(y)
        skip = {"input": x, "norm": y, "none": torch.zeros_like(x)}[self.source]
        if self.late:
            return z.relu() + skip
        return (self.scale * skip + z).relu() if self.source != "none" else z.relu()


class Glu(nn.Module):
    def __init__(self, mode="normal"):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        value, gate = x.chunk(2, -1)
        if self.mode == "swapped":
            value, gate = gate, value
        if self.mode == "interleaved":
            value, gate = x[..., ::2], x[..., 1::2]
        return value * gate.sigmoid()


class Positions(nn.Module):
    """Sines and cosines of the position."""

    def __init__(self, start=0, base=10000.0, joined=False):
        super().__init__()
        self.start, self.base, self.joined = start, base, joined

    def forward(self, x):
        steps = torch.arange(x.shape[1], dtype=x.dtype)[:, None] + 0.0
        if self.start:
            steps = torch.arange(self.start, self.start + x.shape[1], dtype=x.dtype)[:, None] + 0.0
        rate = self.base ** (-torch.arange(0, 8, 2, dtype=x.dtype) / 8)
        waves = [(steps * rate).sin(), (steps * rate).cos()]
        if self.joined:
            return x + torch.cat(waves, -1)
        return x + torch.stack(waves, -1).flatten(1)


class Recurrent(nn.Module):
    """A torch cell written out, with variants."""

    def __init__(self, kind="gru", **knobs):
        super().__init__()
        gates = 3 if kind == "gru" else 4
        self.kind, self.knobs = kind, knobs
        self.weight_ih_l0 = nn.Parameter(torch.zeros(gates * 6, 8))
        self.weight_hh_l0 = nn.Parameter(torch.zeros(gates * 6, 6))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(gates * 6))
        self.bias_hh_l0 = nn.Parameter(torch.zeros(gates * 6))

    def forward(self, x):
        knobs = self.knobs
        gate = knobs.get("gate", torch.sigmoid)
        order = knobs.get("order", (0, 1, 2, 3))
        h = c = x.new_zeros(x.shape[0], 6)
        outputs = []
        for step in range(x.shape[1]):
            a = x[:, step] @ self.weight_ih_l0.T + self.bias_ih_l0
            b = h @ self.weight_hh_l0.T + self.bias_hh_l0
            if self.kind == "gru":
                a, b = a.chunk(3, -1), b.chunk(3, -1)
                r, z = gate(a[0] + b[0]), gate(a[1] + b[1])
                if knobs.get("swapped"):
                    r, z = z, r
                if knobs.get("before"):
                    w, bias = self.weight_hh_l0[12:], self.bias_hh_l0[12:]
                    new = a[2] + (r * h) @ w.T + bias + 0.0 * b[2]
                else:
                    new = a[2] + r * b[2]
                h = (1 - z) * torch.tanh(new) + z * h
            else:
                parts = (a + b).chunk(4, -1)
                i, f, g, o = (parts[k] for k in order)
                c = gate(f + knobs.get("forget", 0.0)) * c + gate(i) * torch.tanh(g)
                h = gate(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1)


class TorchGru(nn.GRU):
    def __init__(self):
        super().__init__(8, 6, batch_first=True)

    def forward(self, x):
        return super().forward(x)[0]


class TorchLstm(nn.LSTM):
    def __init__(self):
        super().__init__(8, 6, batch_first=True)

    def forward(self, x):
        return super().forward(x)[0]


def rnn(middle):
    return Chain(middle, None, nn.Linear(6, 5))


class Flat(nn.Module):
    def __init__(self, order=None):
        super().__init__()
        self.order = order

    def forward(self, x):
        return (x if self.order is None else x.permute(self.order)).flatten(1)


class Joined(nn.Module):
    def __init__(self, order=(0, 1)):
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)
        self.order = order

    def forward(self, x):
        parts = [self.left(x), self.right(x)]
        return torch.cat([parts[k] for k in self.order], -1)


class Table(nn.Embedding):
    def __init__(self, scale=1.0, zero=None):
        super().__init__(7, 8)
        self.scale, self.zero = scale, zero

    def forward(self, x):
        made = super().forward(x)
        if self.zero is not None:
            made = made * (x != self.zero)[..., None]
        return made if self.scale == 1.0 else self.scale * made


def embedded(middle):
    return Chain(middle, None, nn.Linear(8, 5))


def grouped(interleave):
    class Grouped(nn.Conv2d):
        def forward(self, x):
            made = super().forward(x)
            if interleave:
                made = made.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
            return made

    return Grouped(6, 8, 3, groups=2)


def grouped_convs(middle):
    return Chain(middle, nn.Conv2d(4, 6, 3), nn.Conv2d(8, 3, 1))


CASES = {
    # name: (cause, culprit, wrap, reference, port, input)
    "layer norm epsilon": (
        "norm-epsilon", "middle", linears, nn.LayerNorm(8), nn.LayerNorm(8, 3.7e-4), FEATURES
    ),
    "group norm epsilon": (
        "norm-epsilon", "middle", convs, nn.GroupNorm(2, 6), nn.GroupNorm(2, 6, 1e-3), IMAGE
    ),
    "batch norm epsilon": (
        "norm-epsilon", "middle", convs, nn.BatchNorm2d(6), nn.BatchNorm2d(6, 1e-3), IMAGE
    ),
    "rms norm epsilon": (
        "norm-epsilon", "middle", linears, nn.RMSNorm(8, 1e-6), nn.RMSNorm(8, 1e-5), FEATURES
    ),
    "number of groups": (
        "norm-axis", "middle", convs, nn.GroupNorm(2, 6), nn.GroupNorm(3, 6), IMAGE
    ),
    "norm over another axis": (
        "norm-axis", "middle", linears, nn.LayerNorm(8), transposed_norm(1), SEQUENCE
    ),
    "no shift": (
        "norm-affine", "middle", linears, nn.LayerNorm(8), layer_norm_without("bias"), FEATURES
    ),
    "no scale": (
        "norm-affine", "middle", linears, nn.LayerNorm(8), layer_norm_without("weight"), FEATURES
    ),
    "batch statistics": (
        "running-statistics", "middle", convs, nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, track_running_stats=False), IMAGE,
    ),
    "one-sided padding": (
        "padding", "middle", lambda m: Chain(m, None, nn.Conv1d(6, 3, 1)),
        Padded(4, 6, 3), Padded(4, 6, 3, sides=(1, 1)), SIGNAL,
    ),
    "padding of another amount": (
        "padding", "middle", convs, nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3), IMAGE
    ),
    "padding replicated": (
        "padding-value", "middle", lambda m: Chain(m, None, nn.Conv1d(6, 3, 1)),
        Padded(4, 6, 3), Padded(4, 6, 3, mode="replicate"), SIGNAL,
    ),
    "padding circular": (
        "padding-value", "middle", convs, nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"), IMAGE,
    ),
    "stride": (
        "stride-dilation", "middle", convs, nn.Conv2d(6, 6, 3, stride=2),
        nn.Conv2d(6, 6, 3, stride=1), IMAGE,
    ),
    "dilation": (
        "stride-dilation", "middle", convs, nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.Conv2d(6, 6, 3, padding=1), IMAGE,
    ),
    "transposed kernel flipped": (
        "kernel-layout", "middle", convs, nn.ConvTranspose2d(6, 6, 3, 2),
        Flipped(6, 6, 3, 2), IMAGE,
    ),
    "transposed convolution cropped": (
        "padding", "middle", convs, nn.ConvTranspose2d(6, 6, 3, 2, 1, 1),
        Crop(6, 6, 3, 2), IMAGE,
    ),
    "convolution without bias": (
        "bias", "middle", convs, nn.Conv2d(6, 6, 3), without_bias(nn.Conv2d(6, 6, 3)), IMAGE
    ),
    "linear without bias": (
        "bias", "middle", linears, nn.Linear(8, 8), without_bias(nn.Linear(8, 8)), FEATURES
    ),
    "groups interleaved": (
        "channel-order", "middle", grouped_convs, grouped(False), grouped(True), IMAGE
    ),
    "border not counted": (
        "pool-count", "middle", convs, nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), IMAGE,
    ),
    "corners aligned": (
        "resize-alignment", "middle", convs, nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE,
    ),
    "nearest with other places": (
        "resize-alignment", "middle", convs, nn.Upsample(size=(5, 4), mode="nearest"),
        nn.Upsample(size=(5, 4), mode="nearest-exact"), IMAGE,
    ),
    "flatten order": (
        "flatten-order", "middle", lambda m: Chain(m, None, nn.Linear(48, 5)), Flat(),
        Flat((0, 2, 1)), SIGNAL,
    ),
    "parts joined in another order": (
        "channel-order", "middle", linears, Joined(), Joined((1, 0)), FEATURES
    ),
    "halves exchanged": (
        "fused-order", "middle", lambda m: Chain(m, nn.Linear(8, 8), nn.Linear(4, 3)),
        Glu(), Glu("swapped"), FEATURES,
    ),
    "halves interleaved": (
        "fused-order", "middle", lambda m: Chain(m, nn.Linear(8, 8), nn.Linear(4, 3)),
        Glu(), Glu("interleaved"), FEATURES,
    ),
    "gelu by tanh": (
        "activation-variant", "middle", linears, nn.GELU(), nn.GELU("tanh"), FEATURES
    ),
    "quick gelu": (
        "activation-variant", "middle", linears, nn.GELU(),
        lambda x: x * torch.sigmoid(1.702 * x), FEATURES,
    ),
    "silu for hard swish": (
        "activation-variant", "middle", linears, nn.Hardswish(), nn.SiLU(), FEATURES
    ),
    "leaky slope": (
        "activation-parameter", "middle", linears, nn.LeakyReLU(0.01), nn.LeakyReLU(0.23),
        FEATURES,
    ),
    "elu alpha": (
        "activation-parameter", "middle", linears, nn.ELU(), nn.ELU(0.37), FEATURES
    ),
    "softplus beta": (
        "activation-parameter", "middle", linears, nn.Softplus(), nn.Softplus(1.9), FEATURES
    ),
    "no activation": (
        "activation-place", "middle", linears, nn.Tanh(), nn.Identity(), FEATURES
    ),
    "activation twice": (
        "activation-place", "middle", linears, nn.SiLU(), lambda x: F.silu(F.silu(x)), FEATURES
    ),
    "no upper limit": ("clipping", "middle", linears, nn.ReLU6(), nn.ReLU(), 9 * FEATURES),
    "limits moved": (
        "clipping", "middle", linears, nn.Hardtanh(), nn.Hardtanh(-0.5, 0.8), FEATURES
    ),
    "softmax over another axis": (
        "softmax-axis", "middle", linears, nn.Softmax(-1), nn.Softmax(1), SEQUENCE
    ),
    "attention scale": (
        "attention-scale", "middle", linears, Attention(), Attention(scale=8**0.5), SEQUENCE
    ),
    "attention over queries": (
        "softmax-axis", "middle", linears, Attention(mask=""), Attention(mask="", axis=-2),
        SEQUENCE,
    ),
    "mask inverted": (
        "mask", "middle", linears, Attention(), Attention(mask="inverted"), SEQUENCE
    ),
    "mask shifted": ("mask", "middle", linears, Attention(), Attention(mask="shifted"), SEQUENCE),
    "mask transposed": ("mask", "middle", linears, Attention(), Attention(mask="anti"), SEQUENCE),
    "no mask": ("mask", "middle", linears, Attention(), Attention(mask=""), SEQUENCE),
    "mask filled with little": (
        "mask", "middle", linears, Attention(), Attention(fill=-3.0), SEQUENCE
    ),
    "heads split otherwise": (
        "head-split", "middle", linears, Attention(), Attention(split="last"), SEQUENCE
    ),
    "query and key exchanged": (
        "fused-order", "middle", linears, Separate(), Separate(exchanged=True), SEQUENCE
    ),
    "query and key exchanged under a mask": (
        "fused-order", "middle", linears, Separate(masked=True),
        Separate(masked=True, exchanged=True), SEQUENCE,
    ),
    "query and key exchanged in a fused attention": (
        "fused-order", "middle", linears, Separate(fused=True),
        Separate(fused=True, exchanged=True), SEQUENCE,
    ),
    "q and k exchanged": (
        "fused-order", "middle", linears, Attention(), Attention(order=(1, 0, 2)), SEQUENCE
    ),
    "residual of the norm": (
        "residual", "middle", linears, Residual(), Residual("norm"), FEATURES
    ),
    "residual scaled": (
        "residual", "middle", linears, Residual(), Residual(scale=0.7), FEATURES
    ),
    "no residual": ("residual", "middle", linears, Residual(), Residual("none"), FEATURES),
    "activation before the sum": (
        "activation-place", "middle", linears, Residual(), Residual(late=True), FEATURES
    ),
    "positions from one": (
        "position", "middle", linears, Positions(), Positions(1), SEQUENCE
    ),
    "another base": (
        "position", "middle", linears, Positions(), Positions(base=1000.0), SEQUENCE
    ),
    "waves joined, not interleaved": (
        "position", "middle", linears, Positions(), Positions(joined=True), SEQUENCE
    ),
    "reset before": ("cell-variant", "middle", rnn, TorchGru(), Recurrent(before=True), SEQUENCE),
    "gru gates exchanged": (
        "gate-order", "middle", rnn, TorchGru(), Recurrent(swapped=True), SEQUENCE
    ),
    "hard sigmoid gates": (
        "activation-variant", "middle", rnn, TorchGru(), Recurrent(gate=F.hardsigmoid), SEQUENCE
    ),
    "lstm gates in another order": (
        "gate-order", "middle", rnn, TorchLstm(), Recurrent("lstm", order=(0, 2, 1, 3)), SEQUENCE
    ),
    "forget bias": ("bias", "middle", rnn, TorchLstm(), Recurrent("lstm", forget=1.0), SEQUENCE),
    "embedding scaled": ("embedding", "middle", embedded, Table(), Table(8**0.5), TOKENS),
    "padding row read as zeros": ("embedding", "middle", embedded, Table(), Table(zero=0), TOKENS),
    "sum instead of mean": (
        "reduction", "middle", linears, lambda x: x.mean(1), lambda x: x.sum(1), SEQUENCE
    ),
    "another ddof": (
        "reduction", "middle", linears, lambda x: x.std(1),
        lambda x: x.std(1, unbiased=False), SEQUENCE,
    ),
    "dropout scales": (
        "dropout", "middle", linears, nn.Dropout(0.2), lambda x: 0.8 * x, FEATURES
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_proved(name):
    cause, culprit, wrap, reference, port, value = CASES[name]
    found = diagnose_pair(wrap(reference), wrap(port), value)
    assert (found.cause, found.culprit) == (cause, culprit), found
    assert "with " in found.evidence[0]


@pytest.mark.parametrize("name", CASES)
def test_a_right_port_has_no_culprit(name):
    _, _, wrap, reference, _, value = CASES[name]
    found = diagnose_pair(wrap(reference), wrap(reference), value)
    assert found.culprit is None, found
    assert found.cause is None


def _unexplained(x):
    return x + 0.01 * torch.sin(3.0 * x) * torch.cos(x.flip(-1))


@pytest.mark.parametrize("name", CASES)
def test_what_no_repair_explains_has_no_cause(name):
    _, _, wrap, reference, _, value = CASES[name]
    right = wrap(reference)

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.right = copy.deepcopy(right)

        def forward(self, *inputs):
            middle = self.right.middle(self.right.stem(inputs[0]))
            return torch.tanh(self.right.head(_unexplained(middle)))

    port = Wrong()
    port.load_state_dict = lambda state, strict: port.right.load_state_dict(state)
    found = diagnose_pair(right, port, value)
    assert found.culprit is not None
    assert found.cause is None, found
    assert found.evidence == ()
    assert found.tried
