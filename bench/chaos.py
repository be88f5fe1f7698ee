"""Puts bench/CHAOS.md together from what `make chaos` left in a directory."""

import json
import pathlib
import sys

HEAD = """# Faults on purpose

Written by `make chaos`, which brings all of it about again; `medley chaos --help` does one part. Every scenario runs the
same job twice, undisturbed and disturbed, and compares the last checkpoints by their hashes. Seconds are from the fault
to the coordinator's notice, and to the first step that was committed after it.
"""


def seconds(value):
    return "-" if value is None else f"{value:.2f}"


def yes(value):
    return "yes" if value else "**no**"


def scenarios(directory):
    for path in sorted(directory.glob("*/report.json")):
        yield json.loads(path.read_text())


def table(reports):
    yield ("| what | faults | noticed, median s | next step, median s | worst s | committed steps lost |"
           " parameters bit for bit | metrics | checks |")
    yield "|---|---|---|---|---|---|---|---|---|"
    for report in reports:
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


def links(path):
    if not path.is_file():
        return
    yield ""
    yield "## Links between hosts"
    yield ""
    yield "Coordinator and workers in network namespaces of their own, joined by a bridge."
    yield ""
    yield "| what | outcome | seconds | recoveries |"
    yield "|---|---|---|---|"
    for line in path.read_text().splitlines():
        row = json.loads(line)
        yield f"| {row['what']} | {row['outcome']} | {row['seconds']:.1f} | {row['recoveries']} |"


def coordinators(path):
    if not path.is_file():
        return
    report = json.loads(path.read_text())
    without = report["seconds_without_a_leader"]
    yield ""
    yield "## Coordinators"
    yield ""
    yield "Three coordinators and three workers of one job, and a real etcd of three members, on one machine."
    yield ""
    yield (f"{report['kills']} times the leading coordinator was killed (kill -9), with leases of 2 s: the job completed, no worker was"
           " lost, no generation but the first was formed, and all parameters and moments equal the undisturbed run's."
           f" Seconds without a leader, during which training went on: median {without[len(without) // 2]:.2f},"
           f" worst {without[-1]:.2f}.")


def heartbeats(path):
    if not path.is_file():
        return
    figures = json.loads(path.read_text())
    handling, one_way = figures["handling"], figures["one_way"]
    yield ""
    yield "## Heartbeats"
    yield ""
    yield (f"{figures['workers']} simulated workers, a heartbeat every {figures['heartbeat_ms']:.0f} ms and a step every"
           f" {figures['step_ms']:.0f} ms each, against a real coordinator on {figures['cores']} cores that they share:"
           f" {figures['messages_per_second']:.0f} messages a second. Handling, from decoded to done: p50 {handling['p50']:.3f} ms,"
           f" p99 {handling['p99']:.3f} ms, at most {handling['most']:.1f} ms. From a worker's client on: p99 {one_way['p99']:.1f} ms.")


def main():
    directory = pathlib.Path(sys.argv[1])
    reports = list(scenarios(directory))
    lines = [HEAD]
    if reports:
        lines.append(f"Machine: {reports[0]['cores']} cores.\n")
    simulated = (directory / "simulation.txt").read_text() if (directory / "simulation.txt").is_file() else ""
    found = [line for line in simulated.splitlines() if " schedules of up to " in line]
    lines.append("## Simulation\n")
    lines.append((found[-1].strip() if found else "**An invariant was broken.**") + "\n")
    lines.append("## Processes on one machine\n")
    lines.extend(table(reports))
    lines.extend(links(directory / "links.json"))
    lines.extend(coordinators(directory / "coordinators.json"))
    lines.extend(heartbeats(directory / "heartbeats.json"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
