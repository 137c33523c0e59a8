"""Keras' recurrent layers as references: masked, of two directions, of other activations."""

from __future__ import annotations

import warnings

import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # frameworks warn of each other when they are imported
    keras = pytest.importorskip("keras")

from torch import nn  # noqa: E402

TOKENS, WIDTH, UNITS = 7, 5, 6
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


def of_keras(kind="lstm", both=False, masked=False, every=True, **options):
    """Tokens (batch, time) to scores of every step or of the last state."""
    keras.utils.set_random_seed(1)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(TOKENS, WIDTH, mask_zero=masked, name="letters")(tokens)
    make = keras.layers.LSTM if kind == "lstm" else keras.layers.GRU
    layer = make(UNITS, return_sequences=every, bias_initializer="normal", name="rnn", **options)
    y = (keras.layers.Bidirectional(layer, name="rnn") if both else layer)(x)
    return keras.Model(tokens, keras.layers.Dense(3, name="head")(y))


class Port(nn.Module):
    """The same by torch, without masks; "ends" takes both directions' last step."""

    def __init__(self, kind="lstm", both=False, every=True, fault=""):
        super().__init__()
        self.letters = nn.Embedding(TOKENS, WIDTH)
        self.rnn = KINDS[kind](WIDTH, UNITS, batch_first=True, bidirectional=both)
        self.head = nn.Linear(UNITS * (1 + both), 3)
        self.every, self.fault = every, fault

    def forward(self, tokens):
        y, state = self.rnn(self.letters(tokens))
        if self.fault == "faded":
            y = y * torch.where(tokens == 0, 0.5, 1.0)[..., None]
        if not self.every:
            state = state[0] if isinstance(state, tuple) else state
            y = y[:, -1] if self.fault == "ends" else torch.cat(list(state), -1)
        return self.head(y)


def compared(reference, port):
    torch.manual_seed(0)
    tokens = fwc.TensorSpec(("batch", "time"), dtype="int32", kind="tokens", high=TOKENS)
    return fwc.compare(
        lambda: of_keras(**reference), lambda: Port(**port), inputs={"tokens": tokens}, examples=5
    )


CASES = {
    "padding read": ({"masked": True}, {}, "mask"),
    "padding read by a gru": ({"masked": True, "kind": "gru"}, {"kind": "gru"}, "mask"),
    "padding read both ways": ({"masked": True, "both": True}, {"both": True}, "mask"),
    "last step of both": (
        {"both": True, "every": False},
        {"both": True, "every": False, "fault": "ends"},
        "initial-state",
    ),
    "hard gates": ({"recurrent_activation": "hard_sigmoid"}, {}, "activation-variant"),
    "hard gates both ways": (
        {"recurrent_activation": "hard_sigmoid", "both": True},
        {"both": True},
        "activation-variant",
    ),
    "read backwards": ({"go_backwards": True}, {}, "initial-state"),
    "right": ({"both": True, "every": False}, {"both": True, "every": False}, None),
    "no known activation": ({"activation": "softsign", "both": True}, {"both": True}, None),
    "padding fades": ({}, {"fault": "faded"}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_torch_port_does_otherwise(name: str) -> None:
    reference, port, cause = CASES[name]
    found = compared(reference, port)
    assert found.verdict == ("equivalent" if name == "right" else "semantic"), found.summary()
    assert found.cause == cause, found.summary()
    if cause is not None:
        assert found.culprit == "rnn"
