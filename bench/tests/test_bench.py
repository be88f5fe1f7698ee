"""The parts of the scripts that decide something. Nothing is measured here.

    python3 -m unittest discover -s bench/tests
"""

import contextlib
import io
import json
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import chaos
import compare
import gate
import programs
import report
from programs import DoesNotFit, Trouble, run_json


class Gate(unittest.TestCase):
    STORED = {"noise": 0.2, "ratios": {"a": 2.0, "b": 1.5}}

    def test_only_what_is_worse_by_more_than_the_noise_fails(self):
        for ratio, is_worse in [(1.0, False), (2.0, False), (2.39, False), (2.41, True)]:
            first, second = gate.judge(self.STORED, {"a": ratio, "b": 1.5})
            self.assertEqual((first.is_worse, second.is_worse), (is_worse, False), ratio)

    def test_a_ratio_that_is_not_stored_or_not_measured_is_an_error(self):
        for measured in ({"a": 2.0}, {"a": 2.0, "b": 1.5, "c": 1.0}):
            with self.assertRaises(Trouble) as caught:
                gate.judge(self.STORED, measured)
            self.assertTrue(caught.exception.bad_input)

    def test_what_is_written_is_read_and_nonsense_is_not(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "gate.json")
            gate.write(path, {"a": 1.23456})
            self.assertEqual(gate.read(path), {"yardstick": gate.YARDSTICK, "noise": gate.NOISE, "ratios": {"a": 1.235}})
            of_old = '{"yardstick": 1, "noise": 0.1, "ratios": {"a": 1.0}}'
            for nonsense in ("", "[]", "{}", of_old, '{"noise": 0.1, "ratios": {"a": 0}}', '{"noise": "x", "ratios": {}}'):
                path.write_text(nonsense)
                with self.assertRaises(Trouble):
                    gate.read(path)

    def test_the_least_times_count_and_the_verdict_is_the_exit(self):
        class Stub:
            def __init__(self, *times):
                self.times = list(times)

            def step(self, flags):
                ms, floor = self.times.pop(0)
                return {"step_ms_min": ms, "loss_ms": ms, "floor_ms": floor}

            loss = step

        names = len(gate.SHAPES) + 1
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()) as said:
            path = Path(directory, "gate.json")
            # Of a noisy step beside quiet products, and the other way round.
            noisy = Stub(*[(30.0, 5.0)] * names, *[(10.0, 15.0)] * names)
            self.assertTrue(gate.run(noisy, path, update=True, rounds=2))
            self.assertEqual(set(gate.read(path)["ratios"].values()), {2.0})
            self.assertTrue(gate.run(Stub(*[(23.0, 10.0)] * names), path, update=False, rounds=1))
            worse = Stub(*[(23.0, 10.0)] * (names - 1), (25.0, 10.0))
            self.assertFalse(gate.run(worse, path, update=False, rounds=1))
        self.assertIn("worse than stored: loss", said.getvalue())

    def test_the_stored_ratios_are_those_that_are_measured(self):
        path = Path(gate.__file__).parent / "gate.json"
        expected = {f"step {shape} T=2" for shape in gate.SHAPES} | {"loss R=2560 V=3416 T=4, one thread"}
        self.assertEqual(gate.read(path)["ratios"].keys(), expected)


class Runs(unittest.TestCase):
    def test_the_last_object_is_the_result(self):
        found = run_json([sys.executable, "-c", "print('hello'); print('{\"a\": 1}'); print('{\"a\": 2}')"])
        self.assertEqual(found, {"a": 2})

    def test_a_failure_is_its_last_line(self):
        with self.assertRaisesRegex(Trouble, "so it is"):
            run_json([sys.executable, "-c", "import sys; sys.exit('why\\nso it is')"])

    def test_what_does_not_fit_is_ended_with_all_that_it_started(self):
        before, programs.MEMORY_SHARE = programs.MEMORY_SHARE, 0.0
        with tempfile.TemporaryDirectory() as directory:
            note = Path(directory, "child")
            code = (f"import subprocess, pathlib, time; c = subprocess.Popen(['sleep', '100']); "
                    f"pathlib.Path({str(note)!r}).write_text(str(c.pid)); time.sleep(100)")
            try:
                with self.assertRaises(DoesNotFit):
                    run_json([sys.executable, "-c", code])
            finally:
                programs.MEMORY_SHARE = before
            if note.exists() and note.read_text():
                child = int(note.read_text())
                deadline = time.monotonic() + 10
                while is_running(child) and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertFalse(is_running(child))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


class Comparison(unittest.TestCase):
    def test_programs_alternate_and_the_shorter_list_starts_over(self):
        names = [name for name, _ in compare.turns(["x", "y"], ["torchrun", "single", "single, kept memory"])]
        self.assertEqual(names, ["x", "torchrun", "y", "single", "x", "single, kept memory"])
        self.assertEqual(compare.turns(["x"], []), [("x", None)])

    def test_variants_far_from_the_best_run_once(self):
        self.assertEqual(compare.candidates({"a": [], "b": []}), ["a", "b"])
        runs = {"a": [{"step_ms": 10}], "b": [{"step_ms": 12}], "c": [{"step_ms": 13}], "d": []}
        self.assertEqual(compare.candidates(runs), ["a", "b"])

    def test_sequences_become_user_item_lines(self):
        with tempfile.TemporaryDirectory() as directory:
            data, scratch = Path(directory, "data.txt"), Path(directory, "scratch")
            scratch.mkdir()
            data.write_text("7 1 2 3\n8 2 1\n")
            converted = compare.user_item_lines(data, scratch)
            self.assertEqual(converted.read_text(), "7 1\n7 2\n7 3\n8 2\n8 1\n")
            self.assertEqual(compare.user_item_lines(converted, scratch), converted)

    def test_the_report_has_ratios_targets_and_what_did_not_fit(self):
        ours = {"step_ms": 100.0, "floor_ms": 50.0, "times_floor": 2.0, "gflops": 9.0, "gemm_gflops": 18.0,
                "gemm_peak_gflops": 20.0, "peak_rss_mb": 300.0}
        theirs = {"step_ms": 350.0, "max_rss_mb": [1000.0, 1100.0]}
        work = {"name": "ml-1m-T4", "title": "ml-1m shape, T=4", "peers": 4, "target": 4.0, "ours": {"here": [ours]},
                "ours_bf16": [ours],
                "theirs": {"torchrun": [theirs], "single": []}, "trouble": {"single": "needs more than 3 GiB"}}
        machine = dict.fromkeys(["date", "commit", "processor", "cores", "memory_gib", "system", "load_at_start", "rustc",
                                 "python", "libtorch"], "x") | {"instruction_sets": ["avx2"]}
        sent = [{"peers": 4, "rows": 100, "items": 1000, "bytes_per_step_per_worker": 10_000.0},
                {"peers": 16, "rows": 100, "items": 1000, "bytes_per_step_per_worker": 16_000.0}]
        results = {"machine": machine, "quick": False, "baseline": True, "absent": ["toys"], "works": [work], "bytes": sent,
                   "loss": [{"rows": 10, "items": 20, "peers": 4, "threads": 1, "loss_ms": 3.0, "floor_ms": 2.0,
                             "times_floor": 1.5}]}
        text = report.markdown(results)
        self.assertIn("| 100 | here | 350 | torchrun | 3.5× | 4× | **no** |", text)
        self.assertIn("| 300 MB | 1100 MB | 0.273 | ≤ 0.25 | **no** |", text)
        self.assertIn("| 1/120 | ≤ 1/40 | yes |", text)
        self.assertIn("| 1.60 | - | - | ≤ 1.30 | **no** |", text)
        self.assertIn("needs more than 3 GiB", text)
        json.dumps(results)
        alone = report.markdown(results | {"baseline": False, "works": [work | {"theirs": {}}]})
        self.assertIn("ours alone", alone)


class Chaos(unittest.TestCase):
    REPORT = {"about": "kill -9", "cores": 2, "faults": [1], "median_noticed_seconds": 0.1, "median_seconds": 0.2,
              "worst_seconds": None, "steps_lost": 0, "failed": [], "compared": {"parameters_equal": True, "metrics_equal": True}}

    def test_what_was_not_run_or_left_nothing_is_said_to_be(self):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "stop").mkdir()
            (directory / "stop/report.json").write_text(json.dumps(self.REPORT))
            (directory / "heartbeats.json").write_text("")
            lines = chaos.text(directory).splitlines()
        self.assertIn("| kill -9 | 1 | 0.10 | 0.20 | - | 0 | yes | yes | hold |", lines)
        missing = len(chaos.SCENARIOS) - 1
        self.assertEqual(sum(f"| {chaos.NOT_RUN} |" in line for line in lines), missing)
        self.assertEqual(lines.count(chaos.NOT_RUN), 4, "simulation, links, coordinators, heartbeats")

    def test_the_checked_in_report_has_nothing_that_is_not_written(self):
        checked_in = (Path(chaos.__file__).parent / "CHAOS.md").read_text()
        code = Path(chaos.__file__).read_text()
        with tempfile.TemporaryDirectory() as name:
            Path(name, "profile.txt").write_text("dev")
            written = chaos.text(Path(name))
        sentences = [line for line in checked_in.splitlines() if line and not any(c.isdigit() for c in line)]
        self.assertGreater(len(sentences), 8)
        for sentence in sentences:
            self.assertTrue(sentence in written or sentence in code, sentence)
        self.assertIn("Binaries of the dev profile (PROFILE=dev takes those of `cargo build`).", written)


if __name__ == "__main__":
    unittest.main()
