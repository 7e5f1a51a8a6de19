#!/usr/bin/env bash
# Makes sure that what the software KVM host is made of is there (Debian 12). Silent if it is.
set -euo pipefail
say() { printf 'host: %s\n' "$*" >&2; }
PATH=$PATH:/usr/sbin:/sbin

have() { command -v "$1" >/dev/null; }
have_static_busybox() { have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; } # the initrd has no libc
have_kernel() {
  local kernel
  for kernel in /boot/vmlinuz-*; do
    [[ -r $kernel && -d /lib/modules/${kernel#/boot/vmlinuz-}/kernel ]] && return
  done
  return 1
}

find_missing() {
  missing=()
  have qemu-system-x86_64 || missing+=(qemu-system-x86)
  have_kernel || missing+=(linux-image-amd64)
  have_static_busybox || missing+=(busybox-static)
  have mkfs.ext4 || missing+=(e2fsprogs)
  have cpio || missing+=(cpio)
  have modprobe || missing+=(kmod)
  have xz || missing+=(xz-utils)
}

find_missing
((${#missing[@]})) || exit 0

if ((EUID != 0)) || ! have apt-get; then
  say "missing: ${missing[*]}; run: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  exit 69
fi

# One at a time: hosts that start side by side all come here on a fresh machine.
exec {lock}<"${BASH_SOURCE[0]}"
flock "$lock"
find_missing
((${#missing[@]})) || exit 0

say "installing ${missing[*]} (once; some minutes)"
# A machine without a kernel in /boot (a container) does not boot from there and needs no initramfs for the new one;
# to build it takes a minute. Debian's kernel hooks know this variable.
compgen -G '/boot/vmlinu*' >/dev/null || export INITRD=No
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! {
  apt-get update &&
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=600 "${missing[@]}"
} </dev/null >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  say "could not install: ${missing[*]}"
  exit 69
fi
find_missing
((${#missing[@]} == 0)) || { say "installed, but still missing: ${missing[*]}"; exit 69; }
