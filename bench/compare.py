"""Both programs on the same works, alternating, so that whatever else the machine does meets both alike."""

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import machine
import report
from programs import DoesNotFit, Trouble, Worker
from pytorch import VARIANTS, Baseline
from works import BYTES_FLAGS, BYTES_PEERS, LOSS_FLAGS, WORKS, Work

ROUNDS = 3
# A variant that was slower than the best by more than this in the first round is not run again.
HOPELESS = 1.25


def run(worker: Worker, args) -> None:
    baseline = Baseline.find()
    if baseline is None:
        print("bench: the PyTorch program is not there (MEDLEY_PYTORCH_BASELINE names its directory): ours alone")
    works, absent = chosen(args)
    results = {"machine": machine.describe(report.ROOT), "quick": args.quick, "baseline": baseline is not None,
               "absent": absent, "works": []}
    with tempfile.TemporaryDirectory(prefix="medley-bench-") as scratch:
        for work in works:
            results["works"].append(measure(worker, baseline, work, args, Path(scratch)))
    results["loss"] = [worker.loss([*LOSS_FLAGS, "--threads", threads]) for threads in sorted({1, machine.cores()})]
    results["bytes"] = [bytes_at(worker, peers) for peers in (BYTES_PEERS[:1] if args.quick else BYTES_PEERS)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (args.out / "RESULTS.md").write_text(text)
    print(f"\n{text}\nbench: written to {args.out / 'RESULTS.md'} and {args.out / 'results.json'}")


def chosen(args) -> tuple[list[Work], list[str]]:
    """The works to measure, and those whose data set is not there."""
    works = [work for work in WORKS if work.quick or not args.quick]
    if args.only:
        works = [work for work in WORKS if work.name in args.only]
        if unknown := set(args.only) - {work.name for work in WORKS}:
            names = ", ".join(work.name for work in WORKS)
            raise Trouble(f"--only {unknown.pop()}: no such work; there are {names}", bad_input=True)
    if args.quick:
        works = [replace(work, steps=2, warmup=1) for work in works]
    there = [work for work in works if work.data is None or (args.data / work.data).is_file()]
    absent = [work.name for work in works if work not in there]
    for name in absent:
        print(f"bench: {name} is left out: its data set is not in {args.data} (--data or MEDLEY_BENCH_DATA)")
    return there, absent


def measure(worker: Worker, baseline: Baseline | None, work: Work, args, scratch: Path) -> dict:
    rounds = args.rounds or (1 if args.quick else ROUNDS)
    data = args.data / work.data if work.data else None
    their_data = user_item_lines(data, scratch) if data else None
    ours = {name: [] for name in placements(work.peers)}
    theirs = {variant.name: [] for variant in VARIANTS} if baseline else {}
    trouble, rounded = {}, []
    for number in range(rounds):
        for name, variant in turns(candidates(ours), candidates(theirs)):
            if name in trouble:
                continue
            try:
                if variant is None:
                    ours[name].append(found := our_step(worker, our_flags(work, data, placements(work.peers)[name])))
                else:
                    found = baseline.step(variant, work, their_data, machine.cores())
                    theirs[name].append(found)
            except Trouble as failure:
                if variant is None:
                    raise
                trouble[name] = str(failure)
                what = "does not fit" if isinstance(failure, DoesNotFit) else "failed"
                print(f"bench: {work.name}, {name}: {what}: {failure}", flush=True)
                continue
            print(f"bench: {work.name}, round {number + 1}/{rounds}, {'PyTorch ' if variant else ''}{name}: "
                  f"{found['step_ms']:.0f} ms", flush=True)
        rounded += in_bfloat16(worker, work, data)
    return {"name": work.name, "title": work.title, "peers": work.peers, "target": work.faster,
            "ours": ours, "ours_bf16": rounded, "theirs": theirs, "trouble": trouble}


def in_bfloat16(worker: Worker, work: Work, data: Path | None) -> list[dict]:
    """One run of ours with products in bfloat16, where the processor has them."""
    if "avx512_bf16" not in machine.instruction_sets():
        return []
    placement = next(iter(placements(work.peers).values()))
    found = our_step(worker, [*our_flags(work, data, placement), "--precision", "bf16"])
    print(f"bench: {work.name}, products in bfloat16: {found['step_ms']:.0f} ms", flush=True)
    return [found]


def turns(ours: list[str], theirs: list[str]) -> list[tuple]:
    """Ours, theirs, ours, theirs: the shorter list starts over where the other is not done."""
    variants = {variant.name: variant for variant in VARIANTS}
    if not theirs:
        return [(name, None) for name in ours]
    count = max(len(ours), len(theirs))
    pairs = ((ours[turn % len(ours)], theirs[turn % len(theirs)]) for turn in range(count))
    return [turn for mine, other in pairs for turn in ((mine, None), (other, variants[other]))]


def candidates(runs: dict[str, list]) -> list[str]:
    """All at first; later those near the best."""
    medians = {name: statistics.median(run["step_ms"] for run in found) for name, found in runs.items() if found}
    if not medians:
        return list(runs)
    best = min(medians.values())
    return [name for name, ms in medians.items() if ms <= HOPELESS * best]


def placements(peers: int) -> dict[str, tuple[int, int]]:
    """Our ways to use the machine: workers and threads of each."""
    cores = machine.cores()
    split = min(peers, cores)
    ways = {f"1 worker of {cores} threads": (1, cores)}
    if split > 1:
        ways[f"{split} workers of {cores // split} threads"] = (split, cores // split)
    return ways


def our_step(worker: Worker, flags: list) -> dict:
    """A run of ours; of its data set the name is kept, since where it lay is nobody else's concern."""
    found = worker.step(flags)
    return found | ({"data": Path(found["data"]).name} if found.get("data") else {})


def our_flags(work: Work, data: Path | None, placement: tuple[int, int]) -> list:
    workers, threads = placement
    flags = ["--shape", work.shape, "--peers", work.peers, "--workers", workers, "--threads", threads,
             "--steps", work.steps, "--warmup", work.warmup]
    return flags + (["--data", data] if data else [])


def bytes_at(worker: Worker, peers: int) -> dict:
    try:
        found = worker.step([*BYTES_FLAGS, "--peers", peers, "--workers", peers, "--threads", 1])
    except DoesNotFit as trouble:
        return {"peers": peers, "trouble": str(trouble)}
    print(f"bench: {peers} workers send {found['bytes_per_step_per_worker'] / 1e6:.3f} MB each", flush=True)
    return found


def user_item_lines(data: Path, scratch: Path) -> Path:
    """The file as the other program reads it: it knows 'user item' lines and not a user's whole sequence on a line."""
    with open(data) as lines:
        if all(len(line.split()) == 2 for _, line in zip(range(100), lines)):
            return data
    converted = scratch / data.name
    with open(data) as lines, open(converted, "w") as out:
        for line in lines:
            user, *items = line.split()
            out.writelines(f"{user} {item}\n" for item in items)
    return converted
