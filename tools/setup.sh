#!/usr/bin/env bash
# Prepares a checkout: Debian packages, .venv, the release build, the Python package in .venv.
#
# usage: tools/setup.sh [packages|python|build]...     (all three when none is named)
#
# With all three the Python packages are downloaded while the library is compiled.
#
# Quick when repeated: what is already there is checked, not installed again, so that it also works
# without a network. PYTHON names the interpreter to make .venv from (python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/.gearshift-setup
readonly TORCH_INDEX=${GEARSHIFT_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
readonly PACKAGES=(
  build-essential cmake ninja-build pkg-config ccache mold # build
  libssl-dev libhwy-dev zlib1g-dev                         # libraries
  libtomlplusplus-dev libsimgrid-dev libboost-context-dev  # the simulator
  libgtest-dev libgmock-dev                                # tests
  python3 python3-venv python3-dev                         # python
  clang-format clang-tidy iproute2 openmpi-bin             # checks and tests
  libopenmpi-dev                                           # a peer in the benchmarks
  dataset-fashion-mnist bible-kjv-text                     # data of the demo and of studies
)

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

ensure_packages() {
  local missing
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian-like system; what is needed goes by these Debian names: ${PACKAGES[*]}"
    return
  fi
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -gt 0 ] || return 0
  if ! as_root true 2>/dev/null; then
    die "these packages are missing and need root to install: ${missing[*]}" \
      "run: sudo apt-get install -y --no-install-recommends ${missing[*]}" \
      "then run this again"
  fi
  say "installing ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q)
  as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    { as_root "${apt[@]}" update && as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; }
}

# What .venv was made from; when it changes, the stamp is stale.
fingerprint() {
  pwd
  cat tools/requirements*.txt tools/setup.sh pyproject.toml | sha256sum
  "$VENV/bin/python" -V
}

ensure_venv() {
  local python=${PYTHON:-python3}
  # A checkout that was moved takes scripts along that still name the old place.
  if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null || ! head -n 1 "$VENV/bin/pip" | grep -qF "$PWD/"; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      die "$python is older than Python 3.11; name a newer one with PYTHON=..."
    say "creating $VENV"
    "$python" -m venv --clear "$VENV"
  fi
}

# The CPU build of torch when it can be had (a tenth of the size), else whatever the index offers.
install_torch() {
  local torch=$1 pip=("$VENV/bin/python" -m pip install --no-compile --disable-pip-version-check)
  "$VENV/bin/python" - "$torch" <<'PY' && return 0
import importlib.metadata as metadata, sys
try:
    installed = metadata.version("torch").split("+")[0]
except metadata.PackageNotFoundError:
    sys.exit(1)
sys.exit(f"torch=={installed}" != sys.argv[1])
PY
  say "installing $torch (CPU)"
  "${pip[@]}" "$torch+cpu" 2>/dev/null ||
    "${pip[@]}" --extra-index-url "$TORCH_INDEX" --retries 1 --timeout 20 "$torch+cpu" ||
    "${pip[@]}" "$torch"
}

python_is_ready() { [ "$(fingerprint)" = "$(cat "$STAMP" 2>/dev/null)" ]; }

# What the build needs of the Python packages: little, quickly there.
ensure_binding_generator() {
  "$VENV/bin/python" -c 'import nanobind' 2>/dev/null ||
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check \
      "$(grep -E '^nanobind==' tools/requirements.txt)"
}

ensure_python() {
  ensure_venv
  ! python_is_ready || return 0
  say "installing the Python packages"
  install_torch "$(grep -E '^torch==' tools/requirements.txt)"
  "$VENV/bin/python" -m pip install -q --no-compile --disable-pip-version-check \
    -r tools/requirements.txt
  "$VENV/bin/python" -m pip install -q --no-compile --disable-pip-version-check --no-deps \
    -r tools/requirements-data.txt -r tools/requirements-lightning.txt
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
  compile_what_is_imported
  fingerprint >"$STAMP"
}

# Byte code of what most processes import, a quarter of what is installed: the rest is compiled when
# it is needed, unless PYTHONDONTWRITEBYTECODE is set, where each process would do it anew.
compile_what_is_imported() {
  PYTHONDONTWRITEBYTECODE='' "$VENV/bin/python" - <<'PY'
import torch, torch._dynamo, torch.distributed.rpc, torch.nn.parallel, torch.utils.data
import matplotlib.pyplot, numpy, pandas, pyarrow.parquet, pytest, rich.progress, safetensors.torch
import lightning.pytorch, scikit_build_core.build, typer, typer.testing, xdist
PY
}

build() {
  local configure=(cmake --preset release)
  [ -z "${GEARSHIFT_WERROR:-}" ] || configure+=("-DGEARSHIFT_WERROR=$GEARSHIFT_WERROR")
  if [ ! -f build/release/build.ninja ] || [ -n "${GEARSHIFT_WERROR:-}" ]; then
    say "configuring build/release"
    "${configure[@]}" >build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
  fi
  cmake --build --preset release --target python_package
  # Each process would compile the package anew where PYTHONDONTWRITEBYTECODE is set.
  "$VENV/bin/python" -m compileall -q python/gearshift
}

# Downloads and the compiler hardly disturb each other. Both are jobs: on the left of `||` a
# function would go on after what fails in it.
build_while_downloading() {
  local log=build/python-packages.log download building built=0
  ensure_binding_generator
  say "installing the Python packages beside the build (output in $log)"
  ensure_python >"$log" 2>&1 &
  download=$!
  build &
  building=$!
  wait "$building" || built=$?
  say "waiting for the Python packages"
  wait "$download" || { cat "$log" >&2; die "the Python packages could not be installed; see above"; }
  [ "$built" = 0 ] || die "the build failed; see above"
}

everything() {
  ensure_packages
  ensure_venv
  if python_is_ready; then build; else build_while_downloading; fi
}

mkdir -p build
[ $# -gt 0 ] || everything
for part; do
  case $part in
    packages) ensure_packages ;;
    python) ensure_python ;;
    build) build ;;
    *) die "unknown part '$part'; they are packages, python, build" ;;
  esac
done
