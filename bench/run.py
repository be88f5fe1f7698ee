#!/usr/bin/env python3
"""Measures Medley beside the program that it replaces, and guards what was reached.

    python3 bench/run.py compare [--quick]     both programs, alternating; writes RESULTS.md and results.json
    python3 bench/run.py gate [--update]       our own ratios against gate.json; exit code 3 when one got worse

`make bench`, `make bench-gate` and `make bench-gate UPDATE=1` build the release binaries and call this. Standard library
only. In reading order: works.py (what is measured, and which ratios are aimed at), programs.py (how either program is
run), pytorch.py (where the other one is), compare.py, report.py, gate.py, machine.py.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import compare
import gate
from programs import Trouble, Worker

ROOT = Path(__file__).resolve().parent.parent
OK, FAILURE, BAD_INPUT, WORSE = 0, 1, 2, 3


def main() -> int:
    args = arguments()
    try:
        worker = Worker(args.worker or default_worker())
        if args.command == "gate":
            return OK if gate.run(worker, args.file, args.update, args.rounds) else WORSE
        compare.run(worker, args)
        return OK
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return BAD_INPUT if trouble.bad_input else FAILURE
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was written", file=sys.stderr)
        return 130


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in [("compare", "both programs side by side"), ("gate", "our ratios against the stored ones")]:
        command = commands.add_parser(name, help=text)
        command.add_argument("--worker", type=Path, help="medley-worker; by default the release build")
        if name == "gate":
            command.add_argument("--file", type=Path, default=ROOT / "bench/gate.json", help="the stored ratios")
            command.add_argument("--update", action="store_true", help="store what is measured now")
            command.add_argument("--rounds", type=positive, default=3, help="measurements of each; the least counts")
        else:
            command.add_argument("--quick", action="store_true", help="few works, few steps: to see that all works")
            command.add_argument("--only", metavar="WORK", action="append", help="this work alone, for example ml-1m-T2")
            command.add_argument("--rounds", type=positive, help="times that each program runs")
            command.add_argument("--out", type=Path, default=ROOT / "bench", help="directory of RESULTS.md")
            command.add_argument("--data", type=Path, default=default_data(), help="directory of the data sets "
                                 "(toys.txt, chi-18.txt, ...); also $MEDLEY_BENCH_DATA")
    return parser.parse_args()


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("use 1 or more")
    return value


def default_worker() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/medley-worker"


def default_data() -> Path:
    return Path(os.environ.get("MEDLEY_BENCH_DATA", ROOT / "../shared/data"))


if __name__ == "__main__":
    sys.exit(main())
