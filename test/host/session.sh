#!/bin/bash
# Process 1 inside the software host: runs the command, passes on its output and its status, switches the machine off.
job=/run/host
mapfile -d '' -t environment <"$job/environment"
mapfile -d '' -t command <"$job/command"
mapfile -d '' -t directory <"$job/directory"

# A sign of life, and the answer to each pulse. (Before there is an output that it could hold open.)
echo >"$job/alive"
{
  stty -echo
  while read -r _; do echo >"$job/alive"; done
} </dev/ttyS1 &

ulimit -n 65536
exec </dev/null
exec {out}> >(exec cat >>"$job/stdout"); relays=("$!")
exec {err}> >(exec cat >>"$job/stderr"); relays+=("$!")

# A cgroup of its own, to kill all of what the command leaves behind.
group=/sys/fs/cgroup/command
mkdir "$group"
(
  echo "$BASHPID" >"$group/cgroup.procs"
  cd -- "${directory[0]}" || exit 70
  # Programs compile Effect once for all of them. The cache is for this machine's CPU, and goes with it.
  # setsid: `kill 0` is not for process 1; and it takes every word for the command, an `a=b` too.
  exec /usr/bin/env -i -- PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${environment[@]}" \
    TMPDIR=/scratch/tmp NODE_COMPILE_CACHE=/scratch/tmp/node HOST_KIND=software /usr/bin/setsid -- "${command[@]}"
) >&"$out" 2>&"$err" {out}>&- {err}>&-
status=$?

exec {out}>&- {err}>&-
echo 1 >"$group/cgroup.kill"
wait "${relays[@]}" # now every byte is with the host
echo "$status" >"$job/status"
/run/busybox poweroff -n -f
