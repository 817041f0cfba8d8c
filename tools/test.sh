#!/usr/bin/env bash
# Set-up, build, checks, C++ tests and Python tests, with a summary; fails if any of them does.
#
# JOBS (2) programs at a time, and one test of Python more: many of them wait for deadlines.
# GEARSHIFT_WERROR=ON makes compiler warnings errors.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/steps.sh

readonly JOBS=${JOBS:-2}

step setup tools/setup.sh
[ "$STEPS_FAILED" -eq 0 ] || { summary; exit 1; }
step build cmake --build --preset release -j "$JOBS"
[ "$STEPS_FAILED" -eq 0 ] || { summary; exit 1; }
step lint tools/lint.sh
step headers cmake --build --preset release -j "$JOBS" --target all_verify_interface_header_sets -- --quiet
step ctest ctest --preset release -j "$JOBS"
step pytest .venv/bin/python -m pytest -q -n "$((JOBS + 1))" --dist loadfile
summary
