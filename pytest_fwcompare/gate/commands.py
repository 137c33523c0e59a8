"""What the command line does with baselines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_fwcompare.errors import UsageError


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Arguments of `merge`."""
    parser.add_argument("baselines", metavar="FILE.json", nargs="+", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE.json", type=Path, required=True)
    text = "what all were made from: what only one of them changed is taken from it"
    parser.add_argument("--base", metavar="FILE.json", type=Path, help=text)
    text = "one of the files, which decides where they differ"
    parser.add_argument("--prefer", metavar="FILE.json", type=Path, help=text)


def merge(options: argparse.Namespace) -> int:
    """Put baselines together; conflicts are named, the answer is 1, and nothing is written."""
    from pytest_fwcompare.gate.files import read_there, update
    from pytest_fwcompare.gate.merging import MergeConflict, merge_all

    if options.prefer is not None and options.prefer not in options.baselines:
        raise UsageError(f"--prefer {options.prefer}: expected one of the files to merge")
    found = {str(path): read_there(path) for path in options.baselines}
    base = None if options.base is None else read_there(options.base)
    prefer = None if options.prefer is None else str(options.prefer)
    try:
        merged = merge_all(found, base, prefer)
    except MergeConflict as conflict:
        print(f"pytest_fwcompare merge: {conflict}", file=sys.stderr)
        return 1
    update(options.output, lambda _: merged)
    print(f"{options.output}: {len(merged.cases)} cases of {len(found)} baselines")
    return 0
