"""`compare(checks=(..., "training"))`: buffers after a step, their causes, dropout."""

from __future__ import annotations

import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
nn = torch.nn

INPUTS = {"features": fwc.TensorSpec(("batch", 6), kind="normal")}
ALL = ("forward", "backward", "training")


class Norm(nn.Module):
    """Linear, batch norm, linear; the norm is an argument."""

    def __init__(self, norm=None, dropout=0.0, training_only=None):
        super().__init__()
        self.lift = nn.Linear(6, 5)
        self.norm = norm or nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(dropout)
        self.read = nn.Linear(5, 3)
        self.training_only = training_only

    def forward(self, features):
        x = torch.tanh(self.norm(self.lift(features)))
        if self.training and self.training_only is not None:
            x = self.training_only(x)
        return self.read(self.dropout(x))


class Biased(nn.BatchNorm1d):
    """Keeps the variance divided by n, as TensorFlow's does."""

    def forward(self, x):
        before = self.running_var.clone()
        made = super().forward(x)
        if self.training:
            new = x.detach().var(0, unbiased=False)
            # Autograd keeps the buffer and counts its changes, so it is written past it.
            self.running_var.data.copy_((1 - self.momentum) * before + self.momentum * new)
        return made


def judged(reference, port, checks=ALL, **keywords) -> fwc.Comparison:
    return fwc.compare(reference, port, inputs=INPUTS, checks=checks, examples=8, **keywords)


def test_right_ports_pass_and_their_buffers_are_rows():
    found = judged(Norm(), Norm())
    assert found.verdict == "equivalent", found.summary()
    assert {row.name for row in found.tensors if row.kind == "buffer"} == {
        "training buffer norm.running_mean",
        "training buffer norm.running_var",
    }


def test_another_momentum_is_solved_for():
    found = judged(Norm(), Norm(nn.BatchNorm1d(5, momentum=0.03)))
    assert (found.verdict, found.culprit, found.cause) == (
        "semantic",
        "norm",
        "running-statistics",
    )
    assert "momentum 0.03 (reference 0.1)" in "\n".join(found.evidence)
    assert all("training buffer" in r.name for r in found.tensors if r.verdict == "semantic")
    assert judged(Norm(), Norm(nn.BatchNorm1d(5, momentum=0.03)), ("forward",)).passed


def test_the_biased_variance_is_named():
    found = judged(Norm(), Norm(Biased(5)))
    assert (found.verdict, found.culprit, found.cause) == (
        "semantic",
        "norm",
        "running-statistics",
    )
    assert "the biased (divided by n) variance" in "\n".join(found.evidence)


def test_statistics_that_are_never_updated():
    class Frozen(nn.BatchNorm1d):
        def forward(self, x):
            return (
                nn.functional.batch_norm(
                    x, None, None, self.weight, self.bias, True, 0.0, self.eps
                )
                if self.training
                else super().forward(x)
            )

    found = judged(Norm(), Norm(Frozen(5)))
    assert (found.verdict, found.cause) == ("semantic", "running-statistics")
    assert "is not updated by the port" in "\n".join(found.evidence)


def test_a_fault_in_training_outputs_alone_is_located():
    found = judged(Norm(), Norm(training_only=lambda x: x * 1.01))
    assert found.verdict == "semantic"
    assert {r.name for r in found.tensors if r.verdict == "semantic"} >= {"training output output"}
    assert not any(
        r.verdict == "semantic" for r in found.tensors if not r.name.startswith("training")
    )
    assert found.culprit is not None


def test_a_fault_in_inference_keeps_its_place_when_training_is_checked_too():
    found = judged(Norm(), Norm(nn.BatchNorm1d(5, eps=1e-2)))
    assert (found.verdict, found.culprit, found.cause) == ("semantic", "norm", "norm-epsilon")


def test_dropout_that_cannot_be_shared_is_a_notice():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 4, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, features):
            return self.rnn(features[:, None])[0]

    found = judged(Recurrent(), Recurrent())
    assert found.passed, found.summary()
    assert any("training outputs were not compared" in text for text in found.notices)
