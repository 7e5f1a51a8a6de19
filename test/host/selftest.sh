#!/usr/bin/env bash
# Checks the software KVM host itself: two whole runs and three that are ended early; half a minute.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
run=$here/run.sh
source "$here/../../scripts/lib.sh"
work=$(mktemp -d)
scratch=$work
passed=0 failed=0

check() { # name, then a command that must succeed
  if "${@:2}" >/dev/null 2>&1; then
    passed=$((passed + 1))
    echo "ok      $1"
  else
    failed=$((failed + 1))
    echo "FAILED  $1"
  fi
}
is() { # name, actual, expected
  check "$1" test "$2" = "$3"
  [[ $2 == "$3" ]] || printf '        got %q, not %q\n' "$2" "$3"
}
empty() { [[ -z $(ls -A "$1") ]]; }
sum() { sha256sum | cut -d ' ' -f 1; }

export HOST=software TMPDIR=$work/tmp
mkdir "$TMPDIR"
place=$work/$'a place\n"with" odd $letters'
mkdir "$place"
cd "$place"
echo before >existing

echo '- a run that tells what it sees, status 7'
arguments=('' ' ' 'two words' "it's" '"' $'new\nline\n' $'tab\t' '\' '$HOME' '*' '--' '-n' 'ü' $'\x01\x80\xff')
export SELFTEST_VALUE=$'one\n"two"\' \x80 = three '
inside=$(
  cat <<'INSIDE'
say() { printf '%s=%s\n' "$1" "$2"; }
say arguments "$(printf '%s\0' "$@" | sha256sum | cut -d ' ' -f 1)"
say value "$(printf %s "$SELFTEST_VALUE" | sha256sum | cut -d ' ' -f 1)"
say place "$(printf %s "$PWD" | sha256sum | cut -d ' ' -f 1)"
say path "$PATH"
say tmpdir "$TMPDIR"
say kind "$HOST_KIND"
say user "$(id -u)"
say files "$(ulimit -n)"
say api "$(perl -e 'open my $kvm, "+<", "/dev/kvm" or die; print ioctl $kvm, 0xAE00, 0')"
say vm "$(perl -e 'open my $kvm, "+<", "/dev/kvm" or die; print ioctl($kvm, 0xAE01, 0) ? "made" : $!')"
say npt "$(cat /sys/module/kvm_amd/parameters/npt)"
say xattr "$(perl -e 'my ($path, $name, $value) = qw(/scratch/tmp user.test 1); print syscall 188, $path, $name, $value, 1, 0')"
say terminal "$(perl -e 'open my $pty, "+<", "/dev/ptmx" or die; print "opened"')"
say shared "$(stat -c %a /dev/shm)"
say loopback "$(cat /sys/class/net/lo/flags)"
say interfaces "$(ls /sys/class/net)"
say input "$(cat | wc -c)"
echo after >existing
echo new >written
say moved "$(perl -e 'print rename($ARGV[0], "$ARGV[0].moved") ? "yes" : $!' "$OLD_DIRECTORY")"
echo to-stderr >/dev/stderr
sleep 1000 & # left behind, with the output open
exit 7
INSIDE
)
export OLD_DIRECTORY=$work/old
mkdir "$OLD_DIRECTORY"
status=0
run bash "$run" -- bash -c "$inside" bash "${arguments[@]}" >"$work/out" 2>"$work/err" || status=$?
cat "$work/err"
told() { sed -n "s/^$1=//p" "$work/out"; }
is 'exit status' "$status" 7
is 'arguments, byte by byte' "$(told arguments)" "$(printf '%s\0' "${arguments[@]}" | sum)"
is 'environment' "$(told value)" "$(printf %s "$SELFTEST_VALUE" | sum)"
is 'working directory' "$(told place)" "$(printf %s "$PWD" | sum)"
is 'PATH' "$(told path)" "$PATH"
is 'TMPDIR' "$(told tmpdir)" /scratch/tmp
is 'HOST_KIND' "$(told kind)" software
is 'user' "$(told user)" 0
is 'open files' "$(told files)" 65536
is 'KVM_GET_API_VERSION' "$(told api)" 12
is 'KVM_CREATE_VM' "$(told vm)" made
is 'nested paging' "$(told npt)" Y
is 'user xattr on /scratch' "$(told xattr)" 0
is 'pseudo terminals' "$(told terminal)" opened
is '/dev/shm' "$(told shared)" 1777
is 'loopback' "$(told loopback)" 0x9
is 'interfaces' "$(told interfaces)" lo
is 'bytes of input' "$(told input)" 0
is 'a directory of the host can be renamed' "$(told moved)" yes
check 'stderr apart from stdout' grep -qx to-stderr "$work/err"
check 'the reason is said' grep -q '^host: HOST=software: running in a software KVM host' "$work/err"
is 'a file of the host afterwards' "$(<existing)" before
check 'nothing written to the host' test ! -e written -a -d "$OLD_DIRECTORY"
check 'temporary directory gone' empty "$TMPDIR"

echo '- a run with much output and a late reader, status 0'
late() { # reads on only when the command has ended
  read -r first
  until [[ -n $(find "$TMPDIR" -path '*/job/status' -size +0) || -z $(ls -A "$TMPDIR") ]]; do sleep 0.1; done
  { echo "$first"; cat; } | sum >"$work/sum"
}
much() { bash "$run" seq 1000000 2>"$work/err" | late; }
status=0
run much || status=$?
is 'exit status' "$status" 0
is 'output' "$(<"$work/sum")" "$(seq 1000000 | sum)"

# Starts a run in the background: $pid is run.sh, $qemu its QEMU.
into_pipe() { exec bash "$run" "$@" >"$work/pipe" 2>"$work/err"; }
begin() {
  mkfifo "$work/pipe"
  start into_pipe "$@"
  pid=$!
  exec {pipe}<"$work/pipe"
  rm "$work/pipe"
  until qemu=$(grep -alsE "^qemu-system-x86_64.*$TMPDIR/" /proc/[0-9]*/cmdline) || ! kill -0 "$pid"; do sleep 0.1; done
  qemu=${qemu//[^0-9]/}
}
gone() { timeout 30 tail --pid="$1" -f /dev/null; }
eventually_empty() { timeout 30 bash -c 'while [[ -n $(ls -A "$1") ]]; do sleep 0.1; done' - "$1"; }

echo '- a run that would never end, with a network, SIGTERM'
server='alarm 300; my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1");
  $| = 1; print $server->sockport, "\n"; print { $server->accept } "from the outer loopback\n"'
exec {listener}< <(perl -MIO::Socket::INET -e "$server")
read -r port <&"$listener"
HOST_NETWORK=1 begin bash -c "read -r line </dev/tcp/10.0.2.2/$port; echo \"\$line\"; exec sleep infinity"
read -r line <&"$pipe"
is 'a line arrives, from the network, while the command runs' "$line" 'from the outer loopback'
kill -TERM "$pid"
status=0
wait "$pid" || status=$?
is 'exit status' "$status" 143
check 'QEMU gone' test ! -e "/proc/$qemu"
check 'temporary directory gone' empty "$TMPDIR"

echo '- a run whose run.sh dies by SIGKILL'
begin sleep infinity
kill -KILL "$pid"
wait "$pid" 2>/dev/null || true
check 'QEMU gone' gone "$qemu"
check 'temporary directory gone' eventually_empty "$TMPDIR"

echo '- a run that is silent for longer than the patience'
HOST_PATIENCE=3 begin sh -c 'sleep 6; echo lives'
read -r line <&"$pipe"
is 'the line after that' "$line" lives
status=0
wait "$pid" || status=$?
is 'exit status' "$status" 0

echo '- a run whose machine stands still'
HOST_PATIENCE=3 begin sh -c 'echo running; exec sleep infinity'
read -r line <&"$pipe"
kill -STOP "$qemu"
status=0
wait "$pid" || status=$?
is 'exit status' "$status" 75
check 'QEMU gone' test ! -e "/proc/$qemu"
check 'temporary directory gone' empty "$TMPDIR"

echo "$passed passed, $failed failed"
((failed == 0))
