#!/usr/bin/env bash
# Builds and runs the C++ suite under the sanitizers.
#
# usage: tools/sanitize.sh [asan|ubsan|tsan]...   (asan, which includes UBSan, and tsan when none is named)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/steps.sh

readonly JOBS=${JOBS:-2}

sanitize() {
  cmake --preset "$1" && cmake --build --preset "$1" -j "$JOBS" && ctest --preset "$1" -j "$((2 * JOBS))"
}

[ $# -gt 0 ] || set -- asan tsan
for preset; do
  step "$preset" sanitize "$preset"
done
summary
