# Sourced: runs named steps, keeps their output below build/logs/, and sums them up at the end.
#
#   step <name> <command>...     a failure is recorded, and the next step still runs
#   meanwhile <function>         the function's steps go on beside those that follow it, at low
#                                priority; one lane at a time
#   rejoin                       waits for them and shows what they printed
#   ok <name>                    whether that step has run and passed
#   summary                      prints one line per step; false if any has failed

readonly LOGS=build/logs
readonly STEPS=$LOGS/steps
readonly LANE_OUTPUT=$LOGS/meanwhile.log
mkdir -p "$LOGS"
: >"$STEPS"
LANE=

step() {
  local name=$1 started=$SECONDS status=0 verdict=ok
  shift
  printf '\n\033[1m==> %s\033[0m\n' "$name"
  "$@" 2>&1 | tee "$LOGS/$name.log" || status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || verdict=FAILED
  printf '%-14s %-7s %4d s  %s\n' \
    "$name" "$verdict" $((SECONDS - started)) "$(step_result "$name")" >>"$STEPS"
}

# The line in which a test runner says how many tests passed.
step_result() {
  sed -E 's/\x1b\[[0-9;]*m//g' "$LOGS/$1.log" |
    grep -E '^[0-9]+% tests passed|^(=+ )?([0-9]+ (passed|failed|skipped|errors?)|no tests ran)\b.* in [0-9.]+s' |
    tail -1 | sed -E 's/^=+ | =+$//g'
}

# A process group of its own: bash has jobs of a script ignore Ctrl-C, so whoever is left is ended.
meanwhile() {
  set -m
  { renice -n 10 "$BASHPID" >/dev/null; "$@"; } >"$LANE_OUTPUT" 2>&1 </dev/null &
  LANE=$!
  set +m
  trap 'end_lane' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

rejoin() {
  wait "$LANE"
  LANE=
  cat "$LANE_OUTPUT"
}

end_lane() { [ -z "$LANE" ] || kill -- "-$LANE" 2>/dev/null; }

ok() { grep -qE "^$1 +ok " "$STEPS"; }

summary() {
  local failed
  printf '\n\033[1m==> summary (%d s; output in %s/)\033[0m\n' "$SECONDS" "$LOGS"
  cat "$STEPS"
  failed=$(grep -cE '^\S+ +FAILED ' "$STEPS")
  if [ "$failed" -eq 0 ]; then echo 'all steps passed'; else echo "$failed step(s) FAILED"; fi
  [ "$failed" -eq 0 ]
}
