"""Puts bench/CHAOS.md together from what `make chaos` left in a directory."""

import json
import pathlib
import sys

HEAD = """# Faults on purpose

Written by `make chaos`, which brings all of it about again; `medley chaos --help` does one part. Every scenario runs the
same job twice, undisturbed and disturbed, and compares the last checkpoints by their hashes. Seconds are from the fault
to the coordinator's notice, and to the first step that was committed after it.
"""

#: The directories of `medley chaos`, in the order in which `make chaos` plays them.
SCENARIOS = ["kill-50", "kill", "stop", "mid-step", "corrupted-frame", "checkpoint", "disk-full"]

NOT_RUN = "**not run**"


def seconds(value):
    return "-" if value is None else f"{value:.2f}"


def yes(value):
    return "yes" if value else "**no**"


def read(path):
    """What a part left as JSON; None where it left nothing, or nothing whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def table(directory):
    yield ("| what | faults | noticed, median s | next step, median s | worst s | committed steps lost |"
           " parameters bit for bit | metrics | checks |")
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in SCENARIOS:
        report = read(directory / name / "report.json")
        if report is None:
            yield "| " + " | ".join([name, NOT_RUN] + ["-"] * 7) + " |"
            continue
        compared = report["compared"]
        yield "| " + " | ".join([
            report["about"],
            str(len(report["faults"])),
            seconds(report["median_noticed_seconds"]),
            seconds(report["median_seconds"]),
            seconds(report["worst_seconds"]),
            str(report["steps_lost"]),
            yes(compared["parameters_equal"]),
            yes(compared["metrics_equal"]),
            "hold" if not report["failed"] else "**" + "; ".join(report["failed"]).replace("|", "/") + "**",
        ]) + " |"


def machine(directory):
    reports = [read(directory / name / "report.json") for name in SCENARIOS]
    cores = [report["cores"] for report in reports if report]
    profile = directory / "profile.txt"
    if cores:
        yield f"Machine: {cores[0]} cores."
    if profile.is_file():
        yield f"Binaries of the {profile.read_text().strip()} profile (PROFILE=dev takes those of `cargo build`)."


def simulation(path):
    if not path.is_file():
        return NOT_RUN
    found = [line for line in path.read_text().splitlines() if " schedules of up to " in line]
    return found[-1].strip() if found else "**An invariant was broken.**"


def links(path):
    yield ""
    yield "## Links between hosts"
    yield ""
    if not path.is_file():
        yield NOT_RUN
        return
    yield "Coordinator and workers in network namespaces of their own, joined by a bridge."
    yield ""
    yield "| what | outcome | seconds | recoveries |"
    yield "|---|---|---|---|"
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield f"| {row['what']} | {row['outcome']} | {row['seconds']:.1f} | {row['recoveries']} |"


def coordinators(path):
    report = read(path)
    yield ""
    yield "## Coordinators"
    yield ""
    if report is None:
        yield NOT_RUN
        return
    without = report["seconds_without_a_leader"]
    yield "Three coordinators and three workers of one job, and a real etcd of three members, on one machine."
    yield ""
    yield (f"{report['kills']} times the leading coordinator was killed (kill -9), with leases of 2 s: the job completed, no worker was"
           " lost, no generation but the first was formed, and all parameters and moments equal the undisturbed run's."
           f" Seconds without a leader, during which training went on: median {without[len(without) // 2]:.2f},"
           f" worst {without[-1]:.2f}.")


def heartbeats(path):
    figures = read(path)
    yield ""
    yield "## Heartbeats"
    yield ""
    if figures is None:
        yield NOT_RUN
        return
    handling, one_way = figures["handling"], figures["one_way"]
    yield (f"{figures['workers']} simulated workers, a heartbeat every {figures['heartbeat_ms']:.0f} ms and a step every"
           f" {figures['step_ms']:.0f} ms each, against a real coordinator on {figures['cores']} cores that they share:"
           f" {figures['messages_per_second']:.0f} messages a second. Handling, from decoded to done: p50 {handling['p50']:.3f} ms,"
           f" p99 {handling['p99']:.3f} ms, at most {handling['most']:.1f} ms. From a worker's client on: p99 {one_way['p99']:.1f} ms.")


def text(directory):
    lines = [HEAD]
    lines.append(" ".join(machine(directory)) + "\n")
    lines.append("## Simulation\n")
    lines.append(simulation(directory / "simulation.txt") + "\n")
    lines.append("## Processes on one machine\n")
    lines.extend(table(directory))
    lines.extend(links(directory / "links.json"))
    lines.extend(coordinators(directory / "coordinators.json"))
    lines.extend(heartbeats(directory / "heartbeats.json"))
    return "\n".join(lines)


def main():
    print(text(pathlib.Path(sys.argv[1])))


if __name__ == "__main__":
    main()
