# Sourced: runs named steps, keeps their output below build/logs/, and sums them up at the end.
#
#   step <name> <command>...   a failure is recorded, and the next step still runs
#   summary                    prints one line per step; false if any has failed

readonly LOGS=build/logs
mkdir -p "$LOGS"
STEP_LINES=()
STEPS_FAILED=0

step() {
  local name=$1 started=$SECONDS status=0 verdict=ok
  shift
  printf '\n\033[1m==> %s\033[0m\n' "$name"
  "$@" 2>&1 | tee "$LOGS/$name.log" || status=${PIPESTATUS[0]}
  if [ "$status" -ne 0 ]; then
    verdict=FAILED
    STEPS_FAILED=$((STEPS_FAILED + 1))
  fi
  STEP_LINES+=("$(printf '%-14s %-7s %4d s  %s' "$name" "$verdict" $((SECONDS - started)) "$(step_result "$name")")")
}

# The line in which a test runner says how many tests passed.
step_result() {
  sed -E 's/\x1b\[[0-9;]*m//g' "$LOGS/$1.log" |
    grep -E '^[0-9]+% tests passed|^(=+ )?([0-9]+ (passed|failed|skipped|errors?)|no tests ran)\b.* in [0-9.]+s' |
    tail -1 | sed -E 's/^=+ | =+$//g'
}

summary() {
  printf '\n\033[1m==> summary (%d s; output in %s/)\033[0m\n' "$SECONDS" "$LOGS"
  printf '%s\n' "${STEP_LINES[@]}"
  if [ "$STEPS_FAILED" -eq 0 ]; then echo 'all steps passed'; else echo "$STEPS_FAILED step(s) FAILED"; fi
  [ "$STEPS_FAILED" -eq 0 ]
}
