#!/usr/bin/env bash
# Set-up, build, checks, C++ tests and Python tests, with a summary; fails if any of them does.
#
# JOBS (2) programs at a time, and one test more: many of them wait for deadlines; tests of C++ that
# keep processors busy count as two. What processors the tests of Python leave idle compiles those of
# C++ meanwhile, at low priority; what these leave idle does the checks.
# GEARSHIFT_WERROR=ON makes compiler warnings errors.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/steps.sh

readonly JOBS=${JOBS:-2}
readonly COMPILE=(cmake --build --preset release -j "$JOBS")

# What no Python test needs; `programs` is what some do.
compile() { step build "${COMPILE[@]}"; }
check() {
  step lint tools/lint.sh
  step headers "${COMPILE[@]}" --target all_verify_interface_header_sets -- --quiet
}

step setup tools/setup.sh
ok setup || { summary; exit 1; }
step programs "${COMPILE[@]}" --target bench_programs toy_trainer
ok programs || { summary; exit 1; }
meanwhile compile
step pytest .venv/bin/python -m pytest -q -n "$((JOBS + 1))" --dist loadfile
rejoin
meanwhile check
! ok build || step ctest ctest --preset release -j "$((2 * JOBS + 1))"
rejoin
summary
