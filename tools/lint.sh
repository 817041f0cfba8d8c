#!/usr/bin/env bash
# The checks that are quick enough to run each time. All run, even when one fails.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
failed=()

check() {
  local name=$1
  shift
  if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failed+=("$name"); fi
}

check layers python tools/check_layers.py
check registration python tools/check_tests_registered.py
check bindings python tools/check_bindings.py
check sizes python tools/check_sizes.py
check format tools/format.sh --check
check ruff ruff check -q
check mypy mypy
[ ${#failed[@]} -eq 0 ]
