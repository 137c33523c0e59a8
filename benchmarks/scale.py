"""BERT-base size (110 M parameters, random), torch against TensorFlow: time and memory.

    python benchmarks/scale.py [--layers 12] [--hidden 768] [--time 16] [--examples 1] [--fault]

Needs transformers and tf-keras (`make realports` installs them). With --fault one epsilon of the
port is changed, and the seconds include finding it.

Peak memory is the largest resident size of this process (`ru_maxrss`), less what was resident when
all frameworks were imported, less the weights of both float64 shadows (8 bytes a parameter each),
over the weights of both float32 models (4 bytes a parameter each). The goal is below 3.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from pytest_fwcompare.progress import Step, listening

for name, value in (
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
    ("TF_ENABLE_ONEDNN_OPTS", "0"),
    ("TRANSFORMERS_VERBOSITY", "error"),
    ("HF_HUB_OFFLINE", "1"),
):
    os.environ.setdefault(name, value)

GOAL_MAPPING_S = 5.0
GOAL_MODELS = 3.0
"""Peak memory over the two float32 models, the shadows' weights aside."""

WORDS = 30522


def show(step: Step) -> None:
    """One line that is written over, where a terminal is there."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{step}", end="", file=sys.stderr, flush=True)


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Most bytes that this process had in memory so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def models(layers: int, hidden: int) -> tuple[Any, Any]:
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    torch.manual_seed(0)
    port = transformers.TFBertModel(config)
    port(port.dummy_inputs)
    return transformers.BertModel(config).eval(), port


def timed_mapping() -> list[float]:
    """Seconds of each choice of a mapping from now on."""
    from pytest_fwcompare import comparison

    seconds: list[float] = []
    inner = comparison.choose_mapping

    def choose(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    comparison.choose_mapping = choose
    return seconds


def main(options: argparse.Namespace) -> dict[str, Any]:
    import tensorflow  # noqa: F401
    import tf_keras  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import pytest_fwcompare as fwc

    imported = resident()
    reference, port = models(options.layers, options.hidden)
    count = sum(p.numel() for p in reference.parameters())
    built = resident()
    if options.fault:
        port.bert.encoder.layer[options.layers // 2].bert_output.LayerNorm.epsilon = 1e-3
    mapping = timed_mapping()
    start = time.perf_counter()
    with listening(show):
        found = fwc.compare(
            reference,
            port,
            inputs={
                "input_ids": fwc.TensorSpec((2, options.time), "int64", low=1, high=WORDS),
            },
            examples=options.examples,
        )
    total = time.perf_counter() - start
    pair, shadows = 2 * 4 * count, 2 * 8 * count
    return {
        "parameters": count,
        "verdict": found.verdict,
        "culprit": found.culprit,
        "cause": found.cause,
        "gap": found.gap,
        "threads": torch.get_num_threads(),
        "mapping_s": round(mapping[0], 2),
        "total_s": round(total, 1),
        "imports_gb": round(imported / 1e9, 2),
        "models_gb": round((built - imported) / 1e9, 2),
        "peak_gb": round(peak() / 1e9, 2),
        "peak_over_models": round((peak() - imported - shadows) / pair, 2),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--time", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1)
    parser.add_argument("--fault", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    figures = main(arguments())
    json.dump(figures, sys.stdout, indent=2)
    goals = (
        figures["mapping_s"] < GOAL_MAPPING_S,
        figures["peak_over_models"] < GOAL_MODELS,
    )
    print(
        f"\nmapping under {GOAL_MAPPING_S:g} s: {goals[0]}; memory, imports and the shadows' "
        f"weights aside, under {GOAL_MODELS:g} times both models: {goals[1]}"
    )
