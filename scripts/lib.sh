# Sourced by the scripts beside it and by test/host/install.sh.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

# The repository brings its own Node: the machine's may be too old to run it.
export PATH="$root/node_modules/.bin:$PATH"

# One profile and one directory for everything that cargo does, so that the engine compiles once.
export CARGO_TARGET_DIR="$root/packages/native/target"
cargo_flags=(--release --locked --manifest-path packages/native/Cargo.toml)

say() { printf '%s\n' "$*" >&2; }

# 65 -> 1m05s
duration() {
  if (($1 < 60)); then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}

# How a script ends. What it writes for itself is in $scratch (by mktemp) and goes with it; a command that fails where no
# failure was expected is named; a signal ends what `run` started, first.
scratch=
trap 'rm -rf ${scratch:+"$scratch"}' EXIT
set -E
trap '((BASH_SUBSHELL)) || say "${0##*/}: status $? at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND"' ERR
trap 'end INT' INT
trap 'end TERM' TERM
trap 'end HUP' HUP

end() { # signal
  trap '' INT TERM HUP
  trap - ERR
  set +em
  local groups group tries
  groups="$(jobs -p)"
  for group in $groups; do kill -TERM -- "-$group" 2>/dev/null; done
  for group in $groups; do
    # Its first process may be a script that takes its time to end its own children; the rest has five seconds.
    # (Not by `wait`: bash 5.2 forgets a child that died of the very signal that interrupted a `wait`, and hangs.)
    while kill -0 "$group" 2>/dev/null; do sleep 0.1; done
    for ((tries = 0; tries < 50; tries++)); do
      kill -0 -- "-$group" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$group" 2>/dev/null
  done
  say "${0##*/}: ended by SIG$1"
  exit $((128 + $(kill -l "$1")))
}

# Runs a command (or a function) that may take long: in the background, since bash sees to a signal only between two
# foreground commands, and in a process group of its own, so that all that it starts can be ended.
run() { # command…
  local status=0
  start "$@"
  wait "$!" || status=$?
  return $status
}

# The same with the output in a file, and a line every 10 seconds that says that it goes on.
run_logged() { # log text command…
  local log=$1 text=$2 pid status=0 started=$SECONDS shown=$SECONDS
  shift 2
  start "$@" >"$log" 2>&1
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    run sleep 0.5 || true
    if ((SECONDS - shown >= 10)); then
      shown=$SECONDS
      say "$text$(detail "$log"), $(duration $((SECONDS - started)))"
    fi
  done
  wait "$pid" || status=$?
  return $status
}
detail() { :; } # log; for a script to say how far it is

start() { # command…
  set -m
  "$@" </dev/null &
  set +m
}
