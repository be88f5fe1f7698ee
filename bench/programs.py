"""Runs a program for its one JSON object, in bounded time and memory, leaving nothing behind."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

# A program may take so much of the memory that was free when it started; more would have the system end something.
MEMORY_SHARE = 0.92
LONGEST_RUN_S = 1800
LOOK_S = 0.1


class Trouble(Exception):
    """One line for people; `bad_input` says whether they are at fault."""

    def __init__(self, line: str, bad_input: bool = False):
        super().__init__(line)
        self.bad_input = bad_input


class DoesNotFit(Trouble):
    """More memory than there is."""


def run_json(command: list, environment: dict | None = None) -> dict:
    """The last line of a program's standard output that is a JSON object."""
    limit = MEMORY_SHARE * available_bytes()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        # A session of its own, so that whatever it starts ends with it.
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=errors, stdin=subprocess.DEVNULL,
                                   start_new_session=True, env={**os.environ, **(environment or {})})
        try:
            watch(process, limit)
        finally:
            end(process)
        output.seek(0)
        errors.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith("{")]
        if process.returncode != 0 or not lines:
            said = [line for line in errors.read().splitlines() if line.strip()]
            raise Trouble(f"{Path(command[0]).name} failed ({process.returncode}): {said[-1] if said else 'it said nothing'}")
        return json.loads(lines[-1])


def watch(process: subprocess.Popen, limit_bytes: float) -> None:
    deadline = time.monotonic() + LONGEST_RUN_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise Trouble(f"took more than {LONGEST_RUN_S} s")
        if resident_bytes(process.pid) > limit_bytes:
            raise DoesNotFit(f"needs more than {limit_bytes / 2**30:.1f} GiB")
        time.sleep(LOOK_S)


def end(process: subprocess.Popen) -> None:
    """Ends what is left of the session that a program leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def resident_bytes(session: int) -> int:
    """Memory of all processes of a session; pages that they share count once a process."""
    total = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == session:
                fields = Path(entry.path, "statm").read_text().split()
                total += (int(fields[1]) - int(fields[2])) * page
        except (OSError, IndexError):
            continue  # it has just ended
    return total


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


class Worker:
    """Ours."""

    def __init__(self, binary: Path):
        self.binary = binary
        if not binary.is_file():
            raise Trouble(f"{binary}: there is no such program; `make build` makes it", bad_input=True)

    def step(self, flags: list) -> dict:
        return run_json([self.binary, "bench", "step", "--json", *flags])

    def loss(self, flags: list) -> dict:
        return run_json([self.binary, "bench", "loss", "--json", *flags])
