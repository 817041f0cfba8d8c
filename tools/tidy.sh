#!/usr/bin/env bash
# clang-tidy (naming, function size) over the given C++ files, or over those that differ from HEAD.
#
# usage: tools/tidy.sh [file]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -eq 0 ]; then
  mapfile -t changed < <(git diff --name-only --diff-filter=d HEAD -- '*.cc'; git ls-files --others --exclude-standard -- '*.cc')
  set -- "${changed[@]}"
fi
sources=()
for file; do
  # Headers are seen through the sources that include them.
  [[ $file != *.cc ]] || sources+=("$file")
done
[ ${#sources[@]} -gt 0 ] || exit 0

[ -f build/dev/compile_commands.json ] || cmake --preset dev >/dev/null
printf '%s\0' "${sources[@]}" | xargs -0 -n 1 -P "${JOBS:-2}" \
  clang-tidy -p build/dev --quiet --extra-arg=-w --warnings-as-errors='*'
