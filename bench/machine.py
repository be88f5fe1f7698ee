"""What the figures were measured on."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

# Those that decide how fast products and loops are.
INSTRUCTION_SETS = ["avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16"]


def describe(root: Path) -> dict:
    processor, _ = processor_and_flags()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(root),
        "processor": processor,
        "cores": cores(),
        "instruction_sets": instruction_sets(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "system": f"{system()}, Linux {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
        "rustc": output(["rustc", "--version"]),
        "python": platform.python_version(),
        "libtorch": "2.11.0",
    }


def instruction_sets() -> list[str]:
    _, flags = processor_and_flags()
    return [name for name in INSTRUCTION_SETS if name in flags]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def processor_and_flags() -> tuple[str, set]:
    model, flags = platform.machine(), set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
    return model, flags


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system() -> str:
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.split("=", 1)[1].strip('"')
    except OSError:
        pass
    return platform.system()


def commit(root: Path) -> str:
    name = output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    changed = output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return name + (" with changes" if changed else "")


def output(command: list) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
