"""Two torch models recorded in float64 on the same inputs and weights."""

from __future__ import annotations

import numpy as np
from passes import asked, given, recorded


def diagnose_pair(reference, port, *inputs, **options):
    """Diagnosis of two torch modules; the port takes the reference's weights by name."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny networks beside other workers
    try:
        return _diagnose_pair(reference, port, *inputs, **options)
    finally:
        torch.set_num_threads(threads)


def _diagnose_pair(reference, port, *inputs, **options):
    import torch

    from pytest_fwcompare.backends.torch import TorchBackend

    generator = np.random.default_rng(3)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            spread = (2.0 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 1.0
            value = generator.normal(size=tuple(parameter.shape)) * spread
            parameter.copy_(torch.from_numpy(value + 1.0 * ("norm" in name)))
        for _, buffer in reference.named_buffers():
            if buffer.is_floating_point():
                value = generator.uniform(0.5, 1.5, tuple(buffer.shape))
                buffer.copy_(torch.from_numpy(value))
    port.load_state_dict(reference.state_dict(), strict=False)
    arguments = given(inputs)
    passes, gradients = [], []
    sides = []
    for model in (reference.eval(), port.eval()):
        side = TorchBackend().adopt(model, dtype="float32", device="cpu", mode="eager", own=True)
        made, found = recorded(side, arguments)
        gradients.append(found)
        passes.append(made)
        sides.append(side)
    mismatch = {}
    for name, mine in gradients[0].items():
        if mine is None or name not in gradients[1]:
            continue
        # A parameter that nothing reaches has no gradient, which is one of zeros.
        other = gradients[1][name]
        obtained = np.zeros_like(mine) if other is None else np.asarray(other)
        if np.abs(mine - obtained).max() > 1e-6 * np.abs(mine).max():
            mismatch[name] = (np.asarray(mine), obtained)
    return asked(sides, passes, mismatch, **options)
