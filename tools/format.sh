#!/usr/bin/env bash
# Formats C++ (clang-format) and Python (ruff); --fix also notes what the bindings are then.
#
# usage: tools/format.sh --check|--fix
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH

mapfile -d '' cpp < <(find include src apps python/src tests bench examples -name '*.h' -print0 -o -name '*.cc' -print0 2>/dev/null)
case ${1:-} in
  --check)
    [ ${#cpp[@]} -eq 0 ] || printf '%s\0' "${cpp[@]}" | xargs -0 -n 40 -P 2 clang-format --dry-run -Werror --style=file
    ruff format -q --check
    ;;
  --fix)
    [ ${#cpp[@]} -eq 0 ] || clang-format -i --style=file "${cpp[@]}"
    python tools/check_bindings.py --fix
    ruff check -q --fix-only
    ruff format -q
    ;;
  *)
    echo "usage: tools/format.sh --check|--fix" >&2
    exit 2
    ;;
esac
