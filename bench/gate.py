"""A gate against getting slower. What is stored and compared are ratios to matrix products that the same processes measure
at the same time: not times, which say more of the machine than of the program.

A ratio may be worse than the stored one by the noise band, which is stored beside it: on machines that others use too,
repeated measurements differ by so much. Better ratios pass; store them with --update, so that they are kept.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from programs import Trouble, Worker
from works import LOSS_FLAGS

# What the ratios are to: the products that `worker/src/bench/products.rs` measures. Raise it when those change, since ratios to
# other products cannot be compared.
YARDSTICK = 2

# The band within which a ratio counts as unchanged.
NOISE = 0.20

SHAPES = ["ml-1m", "toys", "chi-18", "nyc-16", "lastfm"]
STEP_FLAGS = ["--peers", 2, "--workers", 1, "--steps", 5, "--warmup", 2]


@dataclass(frozen=True)
class Verdict:
    name: str
    stored: float
    measured: float
    limit: float

    @property
    def is_worse(self) -> bool:
        return self.measured > self.limit


def run(worker: Worker, path: Path, update: bool, rounds: int) -> bool:
    """Whether nothing got worse."""
    stored = None if update else read(path)
    measured = measure(worker, rounds)
    if update:
        write(path, measured)
        print(f"bench: stored in {path}")
        return True
    verdicts = judge(stored, measured)
    print(text(verdicts))
    worse = [verdict.name for verdict in verdicts if verdict.is_worse]
    if worse:
        print(f"bench: worse than stored: {', '.join(worse)}. Measure again on a quiet machine; where the loss is meant, "
              "`make bench-gate UPDATE=1` stores it")
    return not worse


def measure(worker: Worker, rounds: int) -> dict[str, float]:
    """The ratio of the least time of a step to the least time of its products: noise only ever adds to a time."""
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        for shape in SHAPES:
            found = worker.step(["--shape", shape, *STEP_FLAGS])
            times.setdefault(f"step {shape} T=2", []).append((found["step_ms_min"], found["floor_ms"]))
        # On one thread: libtorch's products on several wait for one another, by turns more and less.
        found = worker.loss([*LOSS_FLAGS, "--threads", 1])
        times.setdefault("loss R=2560 V=3416 T=4, one thread", []).append((found["loss_ms"], found["floor_ms"]))
        print(f"bench: gate, round {number + 1}/{rounds} done", flush=True)
    return {name: min(ms for ms, _ in found) / min(floor for _, floor in found) for name, found in times.items()}


def judge(stored: dict, measured: dict[str, float]) -> list[Verdict]:
    """Every stored ratio needs a measurement; a new measurement that nothing is stored of passes nobody's gate."""
    missing = stored["ratios"].keys() ^ measured.keys()
    if missing:
        raise Trouble(f"gate.json: knows other ratios than are measured ({', '.join(sorted(missing))}); "
                      "store all of them with `make bench-gate UPDATE=1`", bad_input=True)
    limit = 1.0 + stored["noise"]
    return [Verdict(name, ratio, measured[name], ratio * limit) for name, ratio in stored["ratios"].items()]


def text(verdicts: list[Verdict]) -> str:
    width = max(len(verdict.name) for verdict in verdicts)
    lines = [f"{'time over products alone':<{width}}  stored  limit  measured"]
    for one in verdicts:
        lines.append(f"{one.name:<{width}}  {one.stored:6.2f} {one.limit:6.2f}    {one.measured:6.2f}"
                     f"  {'WORSE' if one.is_worse else 'ok'}")
    return "\n".join(lines)


def read(path: Path) -> dict:
    try:
        stored = json.loads(path.read_text())
        if not (isinstance(stored["noise"], float) and all(ratio > 0 for ratio in stored["ratios"].values())):
            raise ValueError("no ratios")
        if stored["yardstick"] != YARDSTICK:
            raise ValueError(f"ratios to products of version {stored['yardstick']}, not {YARDSTICK}")
        return stored
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Trouble(f"{path}: is not a file of ratios ({problem}); `make bench-gate UPDATE=1` writes one", bad_input=True)


def write(path: Path, ratios: dict[str, float]) -> None:
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    path.write_text(json.dumps({"yardstick": YARDSTICK, "noise": NOISE, "ratios": rounded}, indent=2) + "\n")
