#!/usr/bin/env python3
"""Tests of run_tests: a small ctest project is run, and its skips are judged."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

RUN_TESTS = pathlib.Path(__file__).resolve().parent / "run_tests"


class RunTests(unittest.TestCase):
    def run_one(self, command, ci=True, arguments=(), counts=None):
        """run_tests over a build folder that holds one test, `sh -c command`."""
        with tempfile.TemporaryDirectory() as folder:
            build = pathlib.Path(folder)
            (build / "CMakeCache.txt").write_text("TELEFORK_SANITIZE:STRING=\n")
            (build / "CTestTestfile.cmake").write_text(
                f"add_test(one sh -c [[{command}]])\n"
                "set_tests_properties(one PROPERTIES SKIP_RETURN_CODE 77)\n" if command else "")
            env = {key: value for key, value in os.environ.items() if key != "CI"}
            env.pop("TELEFORK_TEST_COUNTS", None)
            if ci:
                env["CI"] = "true"
            if counts:
                env["TELEFORK_TEST_COUNTS"] = counts
            return subprocess.run([sys.executable, str(RUN_TESTS), folder, *arguments], env=env,
                                  capture_output=True, text=True)

    def test_a_passing_test_passes_and_the_summary_closes_the_output(self):
        run = self.run_one("exit 0")
        self.assertEqual(run.returncode, 0)
        self.assertIn("100% tests passed, 0 tests failed out of 1", run.stdout)

    def test_a_failing_test_fails_and_shows_its_output(self):
        run = self.run_one("echo why it failed; exit 1")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("why it failed", run.stdout)

    def test_the_end_of_a_failing_tests_output_is_told_again_at_the_end(self):
        run = self.run_one("seq 100; exit 1")
        told = [line for line in run.stderr.splitlines() if line.startswith("one: ")]
        self.assertEqual(told, [f"one: {number}" for number in range(71, 101)])

    def test_a_skip_that_is_not_allowed_fails_in_ci(self):
        run = self.run_one("echo needs: a unicorn; exit 77")
        self.assertEqual(run.returncode, 1)
        self.assertIn("for want of `a unicorn`", run.stderr)

    def test_a_skip_that_is_not_allowed_is_only_told_outside_ci(self):
        run = self.run_one("echo needs: a unicorn; exit 77", ci=False)
        self.assertEqual(run.returncode, 0)
        self.assertIn("for want of `a unicorn`", run.stderr)

    def test_a_skip_that_names_no_feature_always_fails(self):
        self.assertEqual(self.run_one("exit 77", ci=False).returncode, 1)

    def test_a_test_whose_program_is_not_there_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "CMakeCache.txt").write_text("")
            (pathlib.Path(folder) / "CTestTestfile.cmake").write_text("add_test(one /nowhere/program)\n")
            run = subprocess.run([sys.executable, str(RUN_TESTS), folder], capture_output=True)
        self.assertNotEqual(run.returncode, 0)

    def test_the_counts_are_appended(self):
        with tempfile.NamedTemporaryFile("r") as counts:
            self.run_one("exit 0", counts=counts.name)
            self.run_one("exit 1", counts=counts.name)
            self.run_one("echo needs: a unicorn; exit 77", counts=counts.name)
            self.assertEqual(counts.read(), "1 0 0\n0 1 0\n0 0 1\n")

    def test_no_test_at_all_fails_unless_it_may(self):
        self.assertNotEqual(self.run_one(None).returncode, 0)
        self.assertEqual(self.run_one(None, arguments=["--none-is-fine"]).returncode, 0)


if __name__ == "__main__":
    unittest.main()
