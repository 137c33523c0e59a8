"""How long does a diagnosis of BERT-base size take, and is it right?

    python benchmarks/diagnosis.py [--ports tensorflow keras] [--faults epsilon gelu ...]
                                   [--layers 12] [--hidden 768] [--words 30522] [--time 16]
                                   [--examples 1] [--seed 0] [--cores 2] [--profile PATH] [--keep]

A random torch BERT of transformers (110 M parameters at its usual size) against the TensorFlow
class of transformers, and against the Keras backbone of keras-hub (`make realports` installs
them). Each port has one fault, in a layer drawn at random; of the fault "unknown" no table knows
the cause, and none may be named. Every comparison runs in a process of its own that may use two
cores, and prints a line:

diagnosis   seconds of the wall and of the processor from the verdict to place and cause: both
            float64 passes recorded, aligned, repairs tried, hints and, for Keras, the question
            whether it is Keras or its backend
all         the same of the whole comparison, building the models aside
added       most memory in use while diagnosing, above what was in use when it began
place       culprit exact, or what was named instead; then the same of the cause

With --keep the rows are written to benchmarks/results/diagnosis.json. Peak memory needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

GOAL_S = 60.0
"""Seconds of a diagnosis on two cores."""

RESULTS = Path(__file__).parent / "results" / "diagnosis.json"

SETTING = ("cores", "layers", "hidden", "words", "time", "examples", "seed")
"""Options that the figures depend on."""

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
}


class Planted(NamedTuple):
    """What a diagnosis must say.

    Attributes:
        places: culprits that are right: a connection may be told by the module it enters.
        cause: word of the cause table; None where none may be named.
    """

    places: tuple[str, ...]
    cause: str | None


# Faults of the TensorFlow class. `encoder.layer.N` of the reference is `layer` of the port.


def tensorflow_epsilon(port: Any, number: int) -> Planted:
    _block(port, number).bert_output.LayerNorm.epsilon = 1e-3
    return Planted((f"encoder.layer.{number}.output.LayerNorm",), "norm-epsilon")


def tensorflow_gelu(port: Any, number: int) -> Planted:
    import tensorflow as tf

    dense = _block(port, number).intermediate
    dense.intermediate_act_fn = lambda x: tf.nn.gelu(x, approximate=True)
    place = f"encoder.layer.{number}.intermediate.intermediate_act_fn"
    return Planted((place,), "activation-variant")


def tensorflow_exchange(port: Any, number: int) -> Planted:
    attention = _block(port, number).attention.self_attention
    attention.query, attention.key = attention.key, attention.query
    return Planted((f"encoder.layer.{number}.attention.self",), "fused-order")


def tensorflow_scale(port: Any, number: int) -> Planted:
    attention = _block(port, number).attention.self_attention
    attention.sqrt_att_head_size = float(attention.attention_head_size)
    return Planted((f"encoder.layer.{number}.attention.self",), "attention-scale")


def tensorflow_stopped(port: Any, number: int) -> Planted:
    import tensorflow as tf

    output = _block(port, number).attention.dense_output
    output.dropout = lambda inputs, training=False: tf.stop_gradient(inputs)
    return _stopped(number)


def tensorflow_position(port: Any, number: int) -> Planted:
    embeddings = port.bert.embeddings
    inner = embeddings.call

    def call(*tokens: Any, **given: Any) -> Any:
        return inner(*tokens, **{**given, "past_key_values_length": 1})

    embeddings.call = call
    return Planted(("embeddings", "embeddings.position_embeddings"), "position")


def tensorflow_unknown(port: Any, number: int) -> Planted:
    import tensorflow as tf

    dense = _block(port, number).intermediate
    dense.intermediate_act_fn = lambda x: 0.5 * x * (1.0 + x * tf.math.rsqrt(2.0 + x * x))
    return _unknown(number)


def _unknown(number: int) -> Planted:
    """A fault that no table lists: the longest search, and no cause to be named."""
    return Planted((f"encoder.layer.{number}.intermediate.intermediate_act_fn",), None)


def _block(port: Any, number: int) -> Any:
    return port.bert.encoder.layer[number]


def _stopped(number: int) -> Planted:
    place = f"encoder.layer.{number}.attention.output"
    return Planted((f"{place}.dropout", place), "gradient-path")


# Faults of the Keras backbone.


def keras_epsilon(port: Any, number: int) -> Planted:
    port.transformer_layers[number]._feedforward_layer_norm.epsilon = 1e-3
    return Planted((f"encoder.layer.{number}.output.LayerNorm",), "norm-epsilon")


def keras_gelu(port: Any, number: int) -> Planted:
    import keras

    # The backbone has the formula by tanh throughout, and so has its reference here.
    port.transformer_layers[
        number
    ]._feedforward_intermediate_dense.activation = keras.activations.gelu
    place = f"encoder.layer.{number}.intermediate.intermediate_act_fn"
    return Planted((place,), "activation-variant")


def keras_exchange(port: Any, number: int) -> Planted:
    attention = port.transformer_layers[number]._self_attention_layer
    attention._query_dense, attention._key_dense = attention._key_dense, attention._query_dense
    return Planted((f"encoder.layer.{number}.attention.self",), "fused-order")


def keras_scale(port: Any, number: int) -> Planted:
    attention = port.transformer_layers[number]._self_attention_layer
    attention._inverse_sqrt_key_dim = 1.0 / attention.key_dim
    return Planted((f"encoder.layer.{number}.attention.self",), "attention-scale")


def keras_stopped(port: Any, number: int) -> Planted:
    import keras

    dropout = port.transformer_layers[number]._self_attention_dropout
    dropout.call = lambda inputs, training=False: keras.ops.stop_gradient(inputs)
    return _stopped(number)


def keras_position(port: Any, number: int) -> Planted:
    embedding = port.position_embedding
    inner = embedding.call
    embedding.call = lambda inputs: inner(inputs, start_index=1)
    return Planted(("embeddings", "embeddings.position_embeddings"), "position")


def keras_unknown(port: Any, number: int) -> Planted:
    import keras

    dense = port.transformer_layers[number]._feedforward_intermediate_dense
    dense.activation = lambda x: 0.5 * x * (1.0 + x * keras.ops.rsqrt(2.0 + x * x))
    return _unknown(number)


FAULTS: dict[str, dict[str, Callable[[Any, int], Planted]]] = {
    "tensorflow": {
        "epsilon": tensorflow_epsilon,
        "gelu": tensorflow_gelu,
        "exchange": tensorflow_exchange,
        "scale": tensorflow_scale,
        "stopped": tensorflow_stopped,
        "position": tensorflow_position,
        "unknown": tensorflow_unknown,
    },
    "keras": {
        "epsilon": keras_epsilon,
        "gelu": keras_gelu,
        "exchange": keras_exchange,
        "scale": keras_scale,
        "stopped": keras_stopped,
        "position": keras_position,
        "unknown": keras_unknown,
    },
}
"""By port: what is planted, given the port and the number of a layer."""


def tensorflow_pair(options: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    import torch
    import transformers

    import pytest_fwcompare as fwc

    config = _config(options, "gelu")
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        reference = transformers.BertModel(config).eval()
    port = transformers.TFBertModel(config)
    port(port.dummy_inputs)
    tokens = fwc.TensorSpec((2, options.time), "int64", low=1, high=options.words)
    return reference, port, {"input_ids": tokens}


def keras_pair(options: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    import keras_hub
    import torch
    import transformers

    import pytest_fwcompare as fwc

    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        reference = transformers.BertModel(_config(options, "gelu_new")).eval()
    port = keras_hub.models.BertBackbone(
        vocabulary_size=options.words,
        num_layers=options.layers,
        num_heads=options.hidden // 64,
        hidden_dim=options.hidden,
        intermediate_dim=4 * options.hidden,
        dropout=0.0,
    )
    size = (2, options.time)
    inputs = {
        "input_ids": fwc.TensorSpec(size, "int64", low=1, high=options.words),
        "token_type_ids": fwc.TensorSpec(size, "int64", low=0, high=2, keyword=True),
        "attention_mask": fwc.TensorSpec(size, "bool", kind="ragged", keyword=True),
    }
    return reference, port, inputs


def _config(options: argparse.Namespace, activation: str) -> Any:
    import transformers

    return transformers.BertConfig(
        vocab_size=options.words,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
        hidden_act=activation,
    )


PAIRS = {"tensorflow": tensorflow_pair, "keras": keras_pair}


# One comparison.


class Cost(NamedTuple):
    """What a block cost: seconds of the wall and of the processor, and bytes at its peak."""

    wall: float
    processor: float
    added: int


def resident(entry: str) -> int:
    """Bytes that an entry of this process' status tells: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{entry}:")[2].split()[0])


@contextmanager
def costs(found: list[Cost]) -> Iterator[None]:
    """Append what the block costs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, wall, processor = resident("VmRSS"), time.perf_counter(), _processor()
    try:
        yield
    finally:
        added = resident("VmHWM") - before
        found.append(Cost(time.perf_counter() - wall, _processor() - processor, added))


def _processor() -> float:
    """Seconds of the processor, of workers that have ended too."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def watched(profile: str | None) -> list[Cost]:
    """Costs of each diagnosis from now on."""
    from pytest_fwcompare.comparing import conclusion

    found: list[Cost] = []
    inner = conclusion.diagnose_finding

    def diagnose(*arguments: Any) -> Any:
        import cProfile

        with costs(found):
            if profile is None:
                return inner(*arguments)
            profiler = cProfile.Profile()
            try:
                return profiler.runcall(inner, *arguments)
            finally:
                profiler.dump_stats(profile)

    conclusion.diagnose_finding = diagnose
    return found


def compare_one(options: argparse.Namespace) -> dict[str, Any]:
    """One port with one fault, judged and diagnosed in this process."""
    import pytest_fwcompare as fwc

    (name,), (fault,) = options.ports, options.faults
    number = random.Random(f"{name} {fault} {options.seed}").randrange(options.layers)
    reference, port, inputs = PAIRS[name](options)
    planted = FAULTS[name][fault](port, number)
    diagnosis, whole = watched(options.profile), []
    with costs(whole):
        found = fwc.compare(reference, port, inputs=inputs, examples=options.examples)
    if options.text:
        print(found.summary(), file=sys.stderr)
    cost = diagnosis[0] if diagnosis else Cost(0.0, 0.0, 0)
    return {
        "port": name,
        "fault": fault,
        "layer": number,
        "parameters": sum(p.numel() for p in reference.parameters()),
        "verdict": found.verdict,
        "culprit": found.culprit,
        "culprit_right": found.culprit in planted.places,
        "cause": found.cause,
        "cause_right": found.cause == planted.cause,
        "evidence": found.evidence[:2],
        "notices": [text[:300] for text in found.notices],
        "diagnosis_s": round(cost.wall, 1),
        "diagnosis_processor_s": round(cost.processor, 1),
        "diagnosis_added_gb": round(cost.added / 1e9, 2),
        "all_s": round(whole[0].wall, 1),
        "all_processor_s": round(whole[0].processor, 1),
    }


# All of them.


def start(options: argparse.Namespace, port: str, fault: str) -> dict[str, Any]:
    """One comparison in a process of its own; a row."""
    command = [sys.executable, __file__, "--one", "--ports", port, "--faults", fault]
    for option in SETTING[1:]:
        command += [f"--{option}", str(getattr(options, option))]
    if options.profile:
        command += ["--profile", f"{options.profile}.{port}.{fault}"]
    if options.text:
        command += ["--text"]
    # Inherited by the process before its frameworks count the cores.
    cores = set(sorted(os.sched_getaffinity(0))[: options.cores])
    made = subprocess.run(
        command,
        env=QUIET | os.environ,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if made.returncode:
        return {"port": port, "fault": fault, "failed": made.returncode}
    return json.loads(made.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """One row for a person."""
    head = f"{row['port']:10s} {row['fault']:9s}"
    if "failed" in row:
        return f"{head} failed: exit status {row['failed']}"
    place = "=" if row["culprit_right"] else f"! {row['culprit']}"
    cause = "=" if row["cause_right"] else f"! {row['cause']}"
    return (
        f"{head} diagnosis {row['diagnosis_s']:5.1f} s (processor "
        f"{row['diagnosis_processor_s']:5.1f} s), added {row['diagnosis_added_gb']:.2f} GB, all "
        f"{row['all_s']:5.1f} s (processor {row['all_processor_s']:5.1f} s), {row['verdict']}, "
        f"place {place}, cause {cause}"
    )


def keep(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the rows beside others of the same setting, whole or not at all."""
    setting = {name: getattr(options, name) for name in SETTING}
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = before.get("rows", []) if before.get("setting") == setting else []
    merged = {(row["port"], row["fault"]): row for row in [*known, *rows]}
    rows = list(merged.values())
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    fresh.replace(RESULTS)


def main(options: argparse.Namespace) -> None:
    rows = []
    for port in options.ports:
        for fault in options.faults:
            rows.append(start(options, port, fault))
            print(line(rows[-1]), flush=True)
            if options.keep:
                keep(rows, options)
    done = [row for row in rows if "failed" not in row]
    right = [r for r in done if r["culprit_right"] and r["cause_right"]]
    slowest = max((r["diagnosis_s"] for r in done), default=0.0)
    print(
        f"place and cause right {len(right)}/{len(rows)}; slowest diagnosis {slowest:.1f} s "
        f"(goal {GOAL_S:g} s)"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ports", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    faults = list(FAULTS["tensorflow"])
    parser.add_argument("--faults", nargs="+", choices=faults, default=faults)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--words", type=int, default=30522)
    parser.add_argument("--time", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--profile", help="write profiles of the diagnoses to PATH.port.fault")
    parser.add_argument("--keep", action="store_true", help="write the rows to benchmarks/results")
    parser.add_argument("--text", action="store_true", help="print what a person reads, too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    if asked.one:
        print(json.dumps(compare_one(asked)))
    else:
        main(asked)
