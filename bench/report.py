"""RESULTS.md from results.json: what is faster by how much, on what, and whether that is what was aimed at."""

import statistics
from pathlib import Path

from works import BYTES_FLAT, BYTES_SHARE, LOSS_RATIO, MEMORY_SHARE, MEMORY_WORK

ROOT = Path(__file__).resolve().parent.parent

INTRODUCTION = """# How fast Medley is

Written by `make bench` (see `bench/run.py`), not by hand; every run of either program is in `results.json`.

Both programs take the same steps: batches of 256 sequences, dropout 0.2, HAIL with beta 0.02, two layers of width 64, single
precision. They run by turns, and medians over rounds of the median step count, so that other load on the machine meets both
alike. Ours includes building the batch, the other's does not. The other program is eager PyTorch, either a process a peer
under torchrun or all peers in one process, each with glibc as it is and told to keep its memory; the fastest that fits the
memory counts. Ours runs in one worker on all cores and in a worker a core; the faster counts.
"""


def markdown(results: dict) -> str:
    parts = [INTRODUCTION, machine_table(results["machine"])]
    if results["quick"]:
        parts.append("**A quick look with few steps: not figures to quote.**\n")
    if not results["baseline"]:
        parts.append("The PyTorch program was not there: ours alone.\n")
    if results["absent"]:
        parts.append(f"Left out, as their data sets were not there: {', '.join(results['absent'])}.\n")
    rows = [Row(work) for work in results["works"]]
    parts += [times(rows), bfloat16(rows), targets(rows, results), losses(results["loss"]), floors(rows), variants(rows)]
    return "\n".join(parts)


class Row:
    """A work with the best of either side."""

    def __init__(self, work: dict):
        self.work = work
        self.ours = best(work["ours"])
        self.theirs = best(work["theirs"])

    @property
    def ratio(self) -> float | None:
        return self.theirs.step_ms / self.ours.step_ms if self.theirs else None


class Best:
    """The fastest variant of a program."""

    def __init__(self, name: str, runs: list[dict]):
        self.name, self.runs = name, runs
        self.step_ms = statistics.median(run["step_ms"] for run in runs)

    def median(self, key: str) -> float:
        return statistics.median(run[key] for run in self.runs)


def best(variants: dict[str, list]) -> Best | None:
    all_of_them = [Best(name, runs) for name, runs in variants.items() if runs]
    return min(all_of_them, key=lambda one: one.step_ms, default=None)


def machine_table(machine: dict) -> str:
    sets = ", ".join(machine["instruction_sets"])
    return table(["", ""], [
        ["date", machine["date"]],
        ["commit", machine["commit"]],
        ["processor", f"{machine['processor']}, {machine['cores']} cores ({sets})"],
        ["memory", f"{machine['memory_gib']} GiB"],
        ["system", machine["system"]],
        ["load when it began", f"{machine['load_at_start']}"],
        ["versions", f"{machine['rustc']}; libtorch and PyTorch {machine['libtorch']}; Python {machine['python']}"],
    ])


def times(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        lines.append([
            row.work["title"], f"{row.ours.step_ms:.0f}", row.ours.name,
            f"{row.theirs.step_ms:.0f}" if row.theirs else "-", row.theirs.name if row.theirs else "-",
            times_as_fast(row.ratio), f"{row.work['target']:.0f}×" if row.work["target"] else "-",
            reached(row.ratio, row.work["target"]),
        ])
    header = ["work", "ours, ms", "as", "PyTorch, ms", "as", "faster", "target", "reached"]
    return "## A step\n\n" + table(header, lines)


def bfloat16(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        runs = row.work["ours_bf16"]
        if runs:
            ms = statistics.median(run["step_ms"] for run in runs)
            ratio = row.theirs.step_ms / ms if row.theirs else None
            lines.append([row.work["title"], f"{ms:.0f}", f"{row.ours.step_ms / ms:.2f}×", times_as_fast(ratio)])
    if not lines:
        return "This processor has no bfloat16 products.\n"
    header = ["work", "ours, ms", "faster than ours in float32", "faster than PyTorch in float32"]
    text = ("## With products in bfloat16\n\n`train.precision = \"bf16\"`, in one worker on all cores; the losses stay in "
            "float32.\n\n")
    return text + table(header, lines)


def losses(found: list[dict]) -> str:
    lines = [[f"R={run['rows']}, V={run['items']}, T={run['peers']}", f"{run['threads']}", f"{run['loss_ms']:.0f}",
              f"{run['floor_ms']:.0f}", f"{run['times_floor']:.2f}", f"≤ {LOSS_RATIO:.1f}",
              yes(run["times_floor"] <= LOSS_RATIO)] for run in found]
    header = ["the fused loss alone", "threads", "ms", "its three products, ms", "ratio", "target", "reached"]
    return "## The loss\n\n" + table(header, lines)


def targets(rows: list[Row], results: dict) -> str:
    lines = []
    by_name = {row.work["name"]: row for row in rows}
    if memory := by_name.get(MEMORY_WORK):
        lines.append(memory_line(memory))
    lines += bytes_lines(results["bytes"])
    return "## Memory and bytes\n\n" + table(["what", "ours", "PyTorch", "ratio", "target", "reached"], lines)


def memory_line(row: Row) -> list[str]:
    """Our largest worker, whatever it hosts, against the largest rank, which hosts one peer and lets memory go."""
    mine = row.ours.median("peak_rss_mb")
    ranks = row.work["theirs"].get("torchrun")
    what = f"peak memory of a worker, {row.work['title']} ({row.ours.name}; torchrun)"
    if not ranks:
        return [what, f"{mine:.0f} MB", "-", "-", f"≤ {MEMORY_SHARE:.2f}", "-"]
    their = statistics.median(max(run["max_rss_mb"]) for run in ranks)
    share = mine / their
    return [what, f"{mine:.0f} MB", f"{their:.0f} MB", f"{share:.3f}", f"≤ {MEMORY_SHARE:.2f}", yes(share <= MEMORY_SHARE)]


def bytes_lines(found: list[dict]) -> list[list[str]]:
    lines, sent = [], {}
    for run in found:
        if "trouble" in run:
            lines.append([f"bytes a worker sends, T={run['peers']}", run["trouble"], "-", "-", "-", "no"])
            continue
        mine = sent[run["peers"]] = run["bytes_per_step_per_worker"]
        gathered = all_gather_bytes(run)
        share = mine / gathered
        lines.append([f"bytes a worker sends in a step, ML-1M shape, T={run['peers']}", megabytes(mine),
                      f"{megabytes(gathered)} (all-gather of distributions)", f"1/{1 / share:.0f}",
                      f"≤ 1/{1 / BYTES_SHARE:.0f}", yes(share <= BYTES_SHARE)])
    if len(sent) > 1:
        # A worker sends the share (T-1)/T of something that does not depend on T.
        spread = max(sent.values()) / min(sent.values())
        ends = f"T={min(sent)} to T={max(sent)}"
        lines.append([f"most bytes over fewest, {ends}", f"{spread:.2f}", "-", "-", f"≤ {BYTES_FLAT:.2f}",
                      yes(spread <= BYTES_FLAT)])
    return lines


def all_gather_bytes(run: dict) -> float:
    """What each rank receives when everybody's distributions go to everybody."""
    return 4.0 * (run["peers"] - 1) * run["rows"] * run["items"]


def floors(rows: list[Row]) -> str:
    lines = [[row.work["title"], f"{row.ours.step_ms:.0f}", f"{row.ours.median('floor_ms'):.0f}",
              f"{row.ours.median('times_floor'):.2f}", f"{row.ours.median('gflops'):.0f}",
              f"{row.ours.median('gemm_gflops'):.0f}", f"{row.ours.median('gemm_peak_gflops'):.0f}",
              f"{row.theirs.step_ms / row.ours.median('floor_ms'):.2f}" if row.theirs else "-"] for row in rows]
    header = ["work", "ours, ms", "products alone, ms", "ours / products", "GFLOP/s", "of products alone", "of square products",
              "PyTorch / products"]
    text = ("## Against the matrix products alone\n\nThe products of a step, forward and backward and without padding, by "
            "libtorch in the same processes on the same threads (`worker/src/bench/products.rs`).\n\n")
    return text + table(header, lines)


def variants(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for side in ("ours", "theirs"):
            for name, runs in row.work[side].items():
                program = "Medley" if side == "ours" else "PyTorch"
                if not runs:
                    lines.append([row.work["title"], program, name, row.work["trouble"].get(name, "-"), "", ""])
                    continue
                ms = [run["step_ms"] for run in runs]
                memory = [run["peak_rss_mb"] if side == "ours" else max(run["max_rss_mb"]) for run in runs]
                lines.append([row.work["title"], program, name, f"{statistics.median(ms):.0f}",
                              f"{min(ms):.0f} to {max(ms):.0f}", f"{statistics.median(memory):.0f}"])
    header = ["work", "program", "as", "step, ms", "over rounds", "MB of the largest process"]
    return "## Every variant\n\n" + table(header, lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def times_as_fast(ratio: float | None) -> str:
    return f"{ratio:.1f}×" if ratio else "-"


def reached(ratio: float | None, target: float | None) -> str:
    return "-" if ratio is None or target is None else yes(ratio >= target)


def yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
