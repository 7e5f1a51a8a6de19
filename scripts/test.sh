#!/usr/bin/env bash
# The test command. Every check and every suite, or only the named ones:
#
#     scripts/test.sh [format|lint|types|rustfmt|clippy|cargo|binding|unit|store|selftest|vm|longstore|long …]
#
# `long` are the long matrices, and `longstore` those that need no VM; they run only when they are named.
# A failure does not stop the later steps. The last line is `N passed, N failed`.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

all=(format lint types rustfmt clippy cargo binding unit store selftest vm)
wanted=("$@")
(($# > 0)) || wanted=("${all[@]}")
for part in "${wanted[@]}"; do
  if [[ " ${all[*]} longstore long " != *" $part "* ]]; then
    say "there is no part $part; the parts are: ${all[*]} longstore long"
    exit 64
  fi
done
is_wanted() { [[ " ${wanted[*]} " == *" $1 "* ]]; }

scratch="$(mktemp -d)"
total_passed=0
total_failed=0
table=()

record() { # name passed failed seconds
  total_passed=$((total_passed + $2))
  total_failed=$((total_failed + $3))
  table+=("$(printf '%-10s %8s %8s %8s' "$1" "$2" "$3" "$(duration "$4")")")
}

finish() {
  printf '\n%-10s %8s %8s %8s\n' step passed failed time
  printf '%s\n' "${table[@]}"
  printf '\n%s passed, %s failed\n' "$total_passed" "$total_failed"
  ((total_failed == 0)) || exit 1
  exit 0
}

# A log without colours and carriage returns.
plain() { sed -E $'s/\x1b\\[[0-9;]*[A-Za-z]//g; s/\r//g' "$@"; }

# The sums of the count lines that match a pattern: `passed failed`. An ignored Rust test is a failed one.
sum_counts() { # pattern log…
  local pattern=$1
  shift
  plain "$@" | awk -v pattern="$pattern" '
    $0 ~ pattern { for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed[,;]?$/) p += $(i - 1)
      if ($i ~ /^(failed|ignored)[,;]?$/) f += $(i - 1)
    } }
    END { print p + 0, f + 0 }'
}

vitest_line='^([^|]*[|] )?vitest [a-z]+: [0-9]+ passed, [0-9]+ failed$'

# Runs one step. `kind` says what its output counts: a check is one by itself, the others print their own counts
# (`vitest 2`: on two lines, one for each shard).
step() { # name kind command…
  local name=$1 kind=$2 started=$SECONDS status=0 passed=0 failed=0 lines log="$scratch/$1"
  shift 2
  is_wanted "$name" || return 0
  printf '\n── %s\n' "$name"
  run shown "$log" "$@" || status=$?
  case $kind in
    check) if ((status == 0)); then passed=1; fi ;;
    vitest*)
      read -r passed failed <<<"$(sum_counts "$vitest_line" "$log")"
      lines="$(plain "$log" | grep -cE "$vitest_line" || true)"
      # A run that lost its counts is no pass, whatever its status.
      if ((lines < ${kind#vitest } && status == 0)); then status=1; fi
      ;;
    cargo) read -r passed failed <<<"$(sum_counts '^test result: ' "$log")" ;;
    last) read -r passed failed <<<"$(sum_counts '^[0-9]+ passed, [0-9]+ failed$' <(tail -n 5 "$log"))" ;;
  esac
  if ((failed == 0 && passed == 0 && status == 0)); then
    echo "$name: no tests ran"
    failed=1
  elif ((failed == 0 && status != 0)); then
    # It broke before, after or beside its tests.
    echo "$name: exit status $status"
    failed=1
  fi
  printf '── %s: %s passed, %s failed, %s\n' "$name" "$passed" "$failed" "$(duration $((SECONDS - started)))"
  record "$name" "$passed" "$failed" $((SECONDS - started))
}

# Shows what a command prints, and keeps it.
shown() { # log command…
  local log=$1
  shift
  "$@" 2>&1 | tee "$log"
}

# Without the patch tsc knows nothing of Effect (an install with --ignore-scripts).
types() {
  tsc -v | grep -q effect-tsgo || effect-tsgo patch || return
  tsc -b --pretty false
}

clippy() {
  RUSTC_WORKSPACE_WRAPPER="$root/scripts/clippy-driver.sh" CLIPPY_ARGS="-Dwarnings__CLIPPY_HACKERY__" \
    cargo build "${cargo_flags[@]}" --lib --tests
}

# How many runs a project with microVMs is split into, two at a time: one-processor hosts side by side, since the emulator
# is not reliable with two processors in one host; and more than two, since a host that stands still is begun anew.
shards() { # project
  if [[ -n $software ]] && (($(find "test/$1" -maxdepth 1 -name '*.test.ts' | wc -l) > 1)); then echo 4; else echo 1; fi
}

# Runs one shard in a host of its own. One that stood still (status 75) says nothing of the tests: they run again, once.
shard() { # project number count
  local patience=3600 status try
  if [[ $1 == long ]]; then patience=7200; fi
  for try in 1 2; do
    status=0
    HOST_TIMEOUT="${HOST_TIMEOUT:-$patience}" bash test/host/run.sh -- \
      "$(command -v node)" node_modules/vitest/vitest.mjs run --project "$1" "--shard=$2/$3" </dev/null || status=$?
    if ((status != 75 || try == 2)); then return $status; fi
    echo "once more, in another host"
  done
}

# Runs every second shard, from a first one on.
shards_from() { # project first count
  local number status=0
  for ((number = $2; number <= $3; number += 2)); do
    shard "$1" "$number" "$3" > >(sed -u "s|^|$1 $number/$3 \| |") 2>&1 || status=$?
  done
  return $status
}

# Runs a project whose tests boot microVMs.
guests() { # project
  local count first pids=() status=0
  if [[ -z $software ]]; then
    "$(command -v node)" node_modules/vitest/vitest.mjs run --project "$1"
    return
  fi
  count="$(shards "$1")"
  for ((first = 1; first <= count && first <= 2; first++)); do
    shards_from "$1" "$first" "$count" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  return $status
}

# Tests the software host, where it is used.
selftest() {
  if [[ -n $software ]]; then
    bash test/host/selftest.sh
    return
  fi
  echo "selftest did not run: KVM works here, no software host is used (HOST=software asks for one)"
  return 1
}

# What may end with "install this" comes before what takes long.
make_ready() {
  local packages=() setup=(--no-native) part
  if is_wanted selftest || is_wanted vm || is_wanted long; then
    packages=(test/host/run.sh --install rootfs registry watch ssh sshd)
  elif is_wanted store || is_wanted longstore; then
    packages=(test/host/install.sh rootfs registry ssh sshd)
  fi
  for part in clippy cargo binding unit store selftest vm longstore long; do
    if is_wanted $part; then setup=(); fi
  done
  ((${#packages[@]} == 0)) || run bash "${packages[@]}" || return
  run bash scripts/setup.sh ${setup[@]+"${setup[@]}"}
}
started=$SECONDS
if ! make_ready; then
  record setup 0 1 $((SECONDS - started))
  finish
fi

# Whether microVMs take the software host. (Where they cannot run at all, the parts that boot one have failed above.)
software=
if bash test/host/run.sh --why >/dev/null 2>&1; then software=1; fi

step format check dprint check
step lint check oxlint
step types check types
step rustfmt check cargo fmt --manifest-path packages/native/Cargo.toml --check
step clippy check clippy
# Of the tests only the dependencies are optimised: our own crate takes minutes to be.
step cargo cargo cargo test "${cargo_flags[@]}" --lib \
  --config 'profile.release.package.effect-microsandbox-native.opt-level=0'
step binding check bash scripts/check-binding.sh
step unit "vitest 1" vitest run --project unit
step store "vitest 1" vitest run --project store
# Where KVM works nobody misses it, except who named it.
if [[ -n $software ]] || (($# > 0)); then step selftest last selftest; fi
step vm "vitest $(shards vm)" guests vm
step longstore "vitest 1" vitest run --project longstore
step long "vitest $(shards long)" guests long
finish
