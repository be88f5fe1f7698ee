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
    print("\n".join(lines))


if __name__ == "__main__":
    main()
