"""An LSTM reads, another one with additive attention writes: raw TensorFlow to torch."""

from __future__ import annotations

import tensorflow as tf
import torch
from torch import nn

from .common import Fault, Input, PortCase

FEATURES, HIDDEN, LETTERS, SCORE = 4, 6, 9, 5


class Cell(tf.Module):
    """An LSTM step; gates input, new, forget, output."""

    def __init__(self, inputs, dtype, seed, name=None):
        super().__init__(name=name)
        draw = tf.random.Generator.from_seed(seed)
        self.kernel = tf.Variable(0.4 * draw.normal((inputs + HIDDEN, 4 * HIDDEN), dtype=dtype))
        self.bias = tf.Variable(0.4 * draw.normal((4 * HIDDEN,), dtype=dtype))

    @tf.Module.with_name_scope
    def __call__(self, x, state):
        h, c = state
        gates = tf.matmul(tf.concat([x, h], 1), self.kernel) + self.bias
        i, j, f, o = tf.split(gates, 4, 1)
        c = c * tf.sigmoid(f) + tf.sigmoid(i) * tf.tanh(j)
        h = tf.tanh(c) * tf.sigmoid(o)
        return h, c


class Attention(tf.Module):
    """A state (batch, hidden) looks at a memory (batch, 5, hidden)."""

    def __init__(self, dtype, name=None):
        super().__init__(name=name)
        draw = tf.random.Generator.from_seed(21)
        self.look = tf.Variable(draw.normal((HIDDEN, SCORE), dtype=dtype))
        self.hold = tf.Variable(draw.normal((HIDDEN, SCORE), dtype=dtype))
        self.shift = tf.Variable(draw.normal((SCORE,), dtype=dtype))
        self.weigh = tf.Variable(draw.normal((SCORE,), dtype=dtype))

    @tf.Module.with_name_scope
    def __call__(self, state, memory, mask):
        keys = tf.tensordot(memory, self.hold, 1)
        score = tf.tanh(keys + tf.matmul(state, self.look)[:, None] + self.shift)
        score = tf.reduce_sum(score * self.weigh, -1)
        score = tf.where(mask, score, tf.constant(-1e30, score.dtype))
        return tf.reduce_sum(tf.nn.softmax(score)[..., None] * memory, 1)


class Speller(tf.Module):
    """Features (batch, 5, 4), mask (batch, 5), letters (batch, 4): scores (batch, 4, 9)."""

    def __init__(self, dtype):
        super().__init__(name="speller")
        draw = tf.random.Generator.from_seed(31)
        self.encoder = Cell(FEATURES, dtype, 1, "encoder")
        self.letters = tf.Variable(draw.normal((LETTERS, FEATURES), dtype=dtype))
        self.decoder = Cell(FEATURES + HIDDEN, dtype, 2, "decoder")
        self.attention = Attention(dtype, "attention")
        self.out = tf.Variable(draw.normal((2 * HIDDEN, LETTERS), dtype=dtype))
        self.start = tf.Variable(draw.normal((HIDDEN,), dtype=dtype))

    def __call__(self, features, mask, letters):
        zero = tf.zeros_like(features[:, 0, :1]) * tf.ones((1, HIDDEN), features.dtype)
        state, memory = (zero + self.start, zero), []
        for step in range(5):
            state = self.encoder(features[:, step], state)
            memory.append(state[0])
        memory, scores = tf.stack(memory, 1), []
        context = self.attention(state[0], memory, mask)
        for step in range(4):
            x = tf.gather(self.letters, letters[:, step])
            state = self.decoder(tf.concat([x, context], 1), state)
            context = self.attention(state[0], memory, mask)
            scores.append(tf.matmul(tf.concat([state[0], context], 1), self.out))
        return tf.stack(scores, 1)


class Step(nn.Module):
    """An LSTM step."""

    def __init__(self, inputs):
        super().__init__()
        self.gates = nn.Linear(inputs + HIDDEN, 4 * HIDDEN)

    def forward(self, x, state):
        h, c = state
        i, j, f, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(j)
        return torch.sigmoid(o) * torch.tanh(c), c


class Port(nn.Module):
    """The port; its steps are written out, too."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.enc, self.dec = Step(FEATURES), Step(FEATURES + HIDDEN)
        self.emb = nn.Embedding(LETTERS, FEATURES)
        self.wq = nn.Linear(HIDDEN, SCORE, bias=False)
        self.wk = nn.Linear(HIDDEN, SCORE)
        self.wv = nn.Linear(SCORE, 1, bias=False)
        self.fc = nn.Linear(2 * HIDDEN, LETTERS, bias=False)
        self.h0 = nn.Parameter(torch.zeros(HIDDEN))

    def attend(self, state, memory, mask):
        option = self.option
        score = self.wk(memory) + self.wq(state)[:, None]
        score = score if option == "no-tanh" else score.tanh()
        score = self.wv(score)[..., 0]
        if option != "unmasked":
            score = score.masked_fill(~mask, -1e30)
        share = score.softmax(0 if option == "softmax-over-batch" else 1)
        if option == "shares-detached":
            share = share.detach()
        return (share[:, None] @ memory)[:, 0]

    def forward(self, features, mask, letters):
        count = features.shape[0]
        zero = features.new_zeros(count, HIDDEN)
        state, memory = (self.h0.expand(count, -1), zero), []
        for step in range(5):
            state = self.enc(features[:, step], state)
            memory.append(state[0])
        memory, scores = torch.stack(memory, 1), []
        context = self.attend(state[0], memory, mask)
        if self.option == "decoder-from-zero":
            state = (zero, zero)
        for step in range(4):
            x = self.emb(letters[:, step])
            state = self.dec(torch.cat([x, context], 1), state)
            context = self.attend(state[0], memory, mask)
            scores.append(self.fc(torch.cat([state[0], context], 1)))
        return torch.stack(scores, 1)


def make_reference(dtype="float32"):
    return Speller(getattr(tf, dtype))


def make_port(dtype="float32", fault=None):
    torch.manual_seed(3)
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def copy_weights(reference, port):
    for theirs, ours in ((port.enc, reference.encoder), (port.dec, reference.decoder)):
        fill(theirs.gates.weight, ours.kernel.numpy().T)
        fill(theirs.gates.bias, ours.bias.numpy())
    fill(port.emb.weight, reference.letters.numpy())
    fill(port.wq.weight, reference.attention.look.numpy().T)
    fill(port.wk.weight, reference.attention.hold.numpy().T)
    fill(port.wk.bias, reference.attention.shift.numpy())
    fill(port.wv.weight, reference.attention.weigh.numpy()[None])
    fill(port.fc.weight, reference.out.numpy().T)
    fill(port.h0, reference.start.numpy())


CASES = [
    PortCase(
        name="speller",
        reference_framework="tensorflow",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "features": Input(("batch", 5, FEATURES)),
            "mask": Input(("batch", 5), kind="mask"),
            "letters": Input(("batch", 4), kind="tokens", high=LETTERS),
        },
        faults={
            "no-tanh": Fault("semantic", "attention", "activation-place"),
            "unmasked": Fault("semantic", "attention", "mask"),
            "softmax-over-batch": Fault("semantic", "attention", "softmax-axis"),
            "shares-detached": Fault(
                "semantic", "attention", "gradient-path", shows_in="backward"
            ),
            "decoder-from-zero": Fault("semantic", "decoder", "initial-state"),
        },
        note="Written out step by step, one cell used many times.",
    )
]
