"""The program that Medley is compared with: eager PyTorch, as a user would write it. It is not part of this repository.

$MEDLEY_PYTORCH_BASELINE names the directory of baseline_torchrun.py and baseline_single.py, by default ../shared/bench
beside the checkout. Their Python, with torch and numpy, is put into Medley's cache once ($MEDLEY_CACHE, by default medley/
in $XDG_CACHE_HOME or ~/.cache).
"""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from programs import Trouble, run_json
from works import THEIR_SHAPES, Work

TORCH = "2.11.0"
ROOT = Path(__file__).resolve().parent.parent

# glibc told to keep the memory it was given back: no page faults, more memory.
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


@dataclass(frozen=True)
class Variant:
    """One way to run it: a process a peer, or all peers in one."""

    name: str
    is_torchrun: bool
    keeps_memory: bool


VARIANTS = [
    Variant("torchrun", True, False),
    Variant("single", False, False),
    Variant("torchrun, kept memory", True, True),
    Variant("single, kept memory", False, True),
]


class Baseline:
    def __init__(self, programs: Path, python: Path):
        self.programs, self.python = programs, python

    @classmethod
    def find(cls) -> "Baseline | None":
        """None where the programs are not there; where they are named and missing, somebody should know."""
        named = os.environ.get("MEDLEY_PYTORCH_BASELINE")
        programs = Path(named) if named else ROOT / "../shared/bench"
        if not all((programs / f"baseline_{kind}.py").is_file() for kind in ("torchrun", "single", "common")):
            if named:
                raise Trouble(f"MEDLEY_PYTORCH_BASELINE={named}: has no baseline_torchrun.py, baseline_single.py and "
                              "baseline_common.py", bad_input=True)
            return None
        return cls(programs.resolve(), environment())

    def step(self, variant: Variant, work: Work, data: Path | None, cores: int) -> dict:
        threads = max(1, cores // work.peers) if variant.is_torchrun else cores
        flags = ["--dataset-shape", THEIR_SHAPES[work.shape], "--steps", str(work.steps), "--warmup", str(work.warmup),
                 "--threads-per-rank", str(threads), "--batch", "256", "--dropout", "0.2", "--beta", "0.02"]
        if data:
            flags += ["--data", str(data)]
        if variant.is_torchrun:
            start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={work.peers}"]
            command = [self.python, *start, self.programs / "baseline_torchrun.py", *flags]
        else:
            command = [self.python, self.programs / "baseline_single.py", "--peers", str(work.peers), *flags]
        return run_json(command, KEEPS_MEMORY if variant.keeps_memory else None)


def cache() -> Path:
    if named := os.environ.get("MEDLEY_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medley"


def environment() -> Path:
    """The interpreter with torch, made when it is not there."""
    home = cache() / f"pytorch-{TORCH}"
    python = home / "bin/python"
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / f".pytorch-{TORCH}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever waited finds it made
        if not is_complete(python):
            print(f"bench: installing torch {TORCH} and numpy into {home}; this takes minutes and is done once", flush=True)
            call([sys.executable, "-m", "venv", "--clear", home])
            call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"torch=={TORCH}", "numpy"])
            if not is_complete(python):
                raise Trouble(f"{home}: torch {TORCH} was installed but cannot be imported")
    return python


def is_complete(python: Path) -> bool:
    if not python.is_file():
        return False
    check = f"import numpy, torch; raise SystemExit(not torch.__version__.startswith('{TORCH}'))"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def call(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Trouble(f"{' '.join(str(part) for part in command)} failed: {said[-1] if said else done.returncode}")
