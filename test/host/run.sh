#!/usr/bin/env bash
# Runs a command where /dev/kvm works: right here if it works here, else in a software KVM host, a QEMU machine
# that emulates a CPU with AMD-V and has this machine's files (a copy-on-write view of them). See README.md.
#
# usage: run.sh [--] <command> [args...]
#        run.sh --why                why it would be the software host; status 1 if it would not
#        run.sh --install [what...]  only installs what that needs, and more by the names of install.sh: rootfs, registry, watch, ssh, sshd
# HOST=software     take the software host even where KVM is usable
# HOST_TIMEOUT      seconds until it is ended, with status 124 (3600)
# HOST_PATIENCE     seconds that it may show no sign of life before it is ended, with status 75: it stands still (180)
# HOST_MEMORY       MiB of memory (6144)
# HOST_SCRATCH_GIB  size of the disk that takes all writes; it uses what is written (8)
# HOST_NETWORK=1    a network that reaches what this machine reaches; without it there is only loopback
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'host: %s\n' "$*" >&2; }

if (($# == 0)) || [[ $* == -- ]]; then
  say 'usage: run.sh --why | --install [rootfs] [registry] [watch] [ssh] [sshd] | [--] <command> [args...]'
  exit 64
fi

platform=$(uname -s)-$(uname -m)
# /dev/kvm alone proves nothing on x86: a paravirtual KVM opens it and boots no stock guest. The CPU's flag does.
why_not_here() {
  if [[ ${HOST-} == software && ${HOST_KIND-} != software ]]; then echo 'HOST=software'
  elif [[ $platform == Darwin-arm64 ]]; then return 1
  elif [[ $platform == Linux-x86_64 ]] && ! grep -qwE 'vmx|svm' /proc/cpuinfo; then echo 'no vmx or svm in /proc/cpuinfo'
  elif [[ ! -e /dev/kvm ]]; then echo 'no /dev/kvm'
  elif [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then echo 'no permission for /dev/kvm'
  else return 1
  fi
}
reason=$(why_not_here) || reason=
case $platform in
  Linux-x86_64) ;;
  Linux-aarch64 | Darwin-arm64)
    [[ -z $reason ]] || { say "$reason, and the software KVM host is for Linux on x86-64 only"; exit 69; } ;;
  *)
    say "no microVM runs on $platform: only on Linux (x86-64, or arm64 with KVM) and on macOS (arm64)"
    exit 69 ;;
esac

case $1 in
  --why)
    echo "${reason:-KVM works here}"
    [[ -n $reason ]]
    exit ;;
  --install)
    if [[ -n $reason ]]; then set -- "$@" host; fi
    (($# == 1)) || exec bash "$here/install.sh" "${@:2}"
    exit 0 ;;
  --) shift ;;
esac
if [[ -z $reason ]]; then
  say 'KVM works here: running the command directly'
  exec -- "$@"
fi
say "$reason: running in a software KVM host, slow but real"

PATH=$PATH:/usr/sbin:/sbin # for mkfs.ext4 and modprobe; the command gets the caller's environment, not this one
dir=
keeper=

finish() {
  trap '' INT TERM HUP
  local children
  children=$(jobs -p)
  kill $children 2>/dev/null || true
  # Not by `wait`: bash 5.2 forgets a child that died of the very signal that interrupted a `wait`, and hangs.
  while kill -0 $children 2>/dev/null; do sleep 0.1; done
  if [[ -n $keeper ]]; then
    exec {alive}>&-
    wait "$keeper"
  else
    rm -rf ${dir:+"$dir"}
  fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

bash "$here/install.sh" host & # a signal does not wait for it
wait $! || exit
dir=$(mktemp -d "${TMPDIR:-/tmp}/host.XXXXXXXX")

# Removes the directory once this shell is gone, however it went (SIGKILL too): the end of the pipe is the sign.
exec {alive}> >(trap '' INT TERM HUP; cat >/dev/null; exec rm -rf "$dir" >/dev/null 2>&1)
keeper=$!

# What the machine reads and writes: a directory, so that every byte is acknowledged. A virtio port would lose, at
# power-off, what its reader has not taken yet.
job=$dir/job
mkdir "$job"
cp "$here/session.sh" "$job/session"
cp "/proc/$$/environ" "$job/environment" # as the caller gave it, before this shell touched it
printf '%s\0' "$@" >"$job/command"
printf '%s\0' "$PWD" >"$job/directory"
: >"$job/stdout"
: >"$job/stderr"

# The newest kernel that has its modules here.
while read -r kernel; do
  version=${kernel#/boot/vmlinuz-}
  if [[ -r $kernel && -d /lib/modules/$version/kernel ]]; then break; fi
done < <(printf '%s\n' /boot/vmlinuz-* | sort -rV)

# QEMU starts an unpacked kernel too (PVH), and unpacking takes half a second here, three on the emulated CPU.
# The places of setup_sects, payload_offset and payload_length are those of the Linux boot protocol; the payload ends
# with four bytes that are not part of the xz stream. A kernel that is packed another way is left as it is.
number() { od -An -t "u$2" -j "$1" -N "$2" "$kernel"; }
length=$(($(number 0x24c 4) - 4))
end=$((($(number 0x1f1 1) + 1) * 512 + $(number 0x248 4) + length))
if grep -q '^CONFIG_PVH=y' "/boot/config-$version" &&
  head -c "$end" "$kernel" | tail -c "$length" | xz -dc >"$dir/kernel" 2>/dev/null; then
  kernel=$dir/kernel
fi

# The initrd: busybox, the modules in loading order, init. Not compressed: the emulated CPU would have to undo it.
initrd=$dir/initrd
mkdir -p "$initrd/modules"
cp "$(command -v busybox)" "$initrd/busybox"
cp "$here/init.sh" "$initrd/init"
chmod +x "$initrd/init"
count=100
while read -r module; do
  cp "$module" "$initrd/modules/$count-${module##*/}"
  count=$((count + 1))
done < <(
  for name in virtio_pci virtio_blk virtio_net ext4 9pnet_virtio 9p overlay kvm_amd tun fuse loop vsock virtio_rng; do
    modprobe --show-depends -S "$version" "$name"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
)
(cd "$initrd" && find . | cpio -o -H newc --quiet) >"$dir/initrd.img"

truncate -s "${HOST_SCRATCH_GIB:-8}G" "$dir/scratch.img"
mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1,nodiscard "$dir/scratch.img"

mkfifo "$dir/pulse"

network=()
[[ ${HOST_NETWORK-} != 1 ]] || network=(-nic user,model=virtio-net-pci)

# One virtual CPU: with two, nested AMD-V under TCG hangs or dies after some tens of MiB of guest output. For more
# speed run several hosts side by side.
# EPYC: Node and microVMs are a fifth quicker on it than on `-cpu max` (TCG lacks a few of its features and warns).
# timeout(1) gets the signal if this shell dies by SIGKILL, and hands it to QEMU.
setpriv --pdeathsig TERM timeout -k 5 "${HOST_TIMEOUT:-3600}" qemu-system-x86_64 \
  -nodefaults -no-user-config -display none -no-reboot \
  -machine q35 -accel tcg -cpu EPYC,+svm,+npt -smp 1 -m "${HOST_MEMORY:-6144}" \
  -kernel "$kernel" -initrd "$dir/initrd.img" -serial "file:$dir/console" \
  -chardev stdio,id=pulse,signal=off -serial chardev:pulse \
  -append "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on" \
  -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
  -device virtio-9p-pci,fsdev=root,mount_tag=root \
  -fsdev "local,id=job,path=$job,security_model=none" \
  -device virtio-9p-pci,fsdev=job,mount_tag=job \
  -drive "file=$dir/scratch.img,format=raw,if=virtio,cache=unsafe" \
  -device virtio-rng-pci "${network[@]}" \
  {alive}>&- <"$dir/pulse" >"$dir/qemu.log" 2>&1 &
machine=$!

# Passes on what the command prints. Ends with the machine, or ends the machine if nobody reads any more.
follow() {
  setpriv --pdeathsig TERM tail -c +1 -f -s 0.1 --pid="$machine" "$job/$1" 2>/dev/null && return
  : >"$dir/unread"
  kill "$machine"
}
follow stdout {alive}>&- &
followers=($!)
follow stderr {alive}>&- >&2 &
followers+=($!)

# Gives the machine a pulse, and ends it when it does not answer any more.
#
# QEMU 7.2 can lose an interrupt: when a nested guest exits it takes one bit from those that are pending, without a lock, and
# with it what another thread has set just then. A processor that waits for the timer would wait for good, since nobody sets
# that again; but any other interrupt brings the lost one too. So there is one every second, of a serial port.
# (Counted in sleeps and not by the clock: this machine may be one that is suspended.)
watch() {
  local last='' now still=0
  while sleep 1; do
    echo
    now=$(stat -c %Y "$job/alive" 2>/dev/null) || true
    if [[ $now == "$last" ]]; then still=$((still + 1)); else still=0; fi
    last=$now
    # It boots before it shows the first.
    if ((still >= (${#last} > 0 ? ${HOST_PATIENCE:-180} : 180))); then
      : >"$dir/still"
      kill "$machine"
      return
    fi
  done
}
watch {alive}>&- >"$dir/pulse" &
watcher=$!

ended=0
wait "$machine" || ended=$?
kill "$watcher" 2>/dev/null || true
wait "${followers[@]}" || true

if [[ -s $job/status ]]; then
  exit "$(<"$job/status")"
elif [[ -e $dir/unread ]]; then
  exit 141 # as SIGPIPE would have done
elif [[ -e $dir/still ]]; then
  tail -n 20 "$dir/console" >&2 || true
  say "the machine stood still for ${HOST_PATIENCE:-180} s and was ended; its console is above"
  exit 75
elif ((ended == 124)); then
  say "ended after HOST_TIMEOUT (${HOST_TIMEOUT:-3600} s)"
  exit 124
fi
tail -n 40 "$dir/console" "$dir/qemu.log" >&2 || true
say "the machine ended without a status (QEMU's was $ended); its console is above"
exit 70
