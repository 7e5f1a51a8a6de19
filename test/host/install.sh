#!/usr/bin/env bash
# Makes sure that what is needed of Debian (12) is there. Silent if it is.
#
#     install.sh [rootfs] [registry] [watch] [ssh] [sshd] [host]
#
# rootfs: the static busybox that a guest's root file system is made of, and openssl for one that speaks TLS. registry: the registry that tests pull from.
# watch: the program that a guest watches files with, if it has it. ssh: the clients that log in to a guest. sshd: the server
# that the client here logs in to, and its SFTP.
# host: what the software KVM host is made of, and a rootfs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
say() { printf 'host: %s\n' "$*" >&2; }
PATH=$PATH:/usr/sbin:/sbin

have() { command -v "$1" >/dev/null; }
have_static_busybox() { have busybox && ! ldd "$(command -v busybox)" 2>/dev/null | grep -q '=>'; } # no libc beside it
have_kernel() {
  local kernel
  for kernel in /boot/vmlinuz-*; do
    [[ -r $kernel && -d /lib/modules/${kernel#/boot/vmlinuz-}/kernel ]] && return
  done
  return 1
}

wanted=" $* "
is_wanted() { [[ $wanted == *" $1 "* ]]; }
find_missing() {
  missing=()
  if is_wanted rootfs || is_wanted host; then have_static_busybox || missing+=(busybox-static); fi
  if is_wanted rootfs || is_wanted host || is_wanted registry; then have openssl || missing+=(openssl); fi
  if is_wanted registry; then have docker-registry || missing+=(docker-registry); fi
  if is_wanted watch; then have inotifywait || missing+=(inotify-tools); fi
  if is_wanted ssh; then have sftp || missing+=(openssh-client); fi
  if is_wanted sshd; then
    have ssh-agent || missing+=(openssh-client)
    have sshd && [[ -x /usr/lib/openssh/sftp-server ]] || missing+=(openssh-server openssh-sftp-server)
  fi
  is_wanted host || return 0
  have qemu-system-x86_64 || missing+=(qemu-system-x86)
  have_kernel || missing+=(linux-image-amd64)
  have mkfs.ext4 || missing+=(e2fsprogs)
  have cpio || missing+=(cpio)
  have modprobe || missing+=(kmod)
  have xz || missing+=(xz-utils)
}

find_missing
((${#missing[@]})) || exit 0

fail() { # what is wrong; says what to do
  local sudo=
  ((EUID == 0)) || sudo='sudo '
  if have apt-get; then
    say "$1: ${missing[*]}; run: ${sudo}apt-get update && ${sudo}apt-get install -y --no-install-recommends ${missing[*]}"
  else
    say "$1 (by the names of Debian's packages): ${missing[*]}"
  fi
  exit 69
}
((EUID == 0)) && have apt-get || fail missing

# One at a time: hosts that start side by side all come here on a fresh machine.
exec {lock}<"$root/test/host/install.sh"
run flock "$lock"
find_missing
((${#missing[@]})) || exit 0

say "installing ${missing[*]} (once; some minutes)"
# A machine without a kernel in /boot (a container) does not boot from there and needs no initramfs for the new one;
# to build it takes a minute. Debian's kernel hooks know this variable.
compgen -G '/boot/vmlinu*' >/dev/null || export INITRD=No
export DEBIAN_FRONTEND=noninteractive
scratch=$(mktemp)
apt() { # words for apt-get…
  run_logged "$scratch" installing apt-get "$@" && return
  tail -n 40 "$scratch" >&2
  fail 'could not install'
}
packages=(install -y --no-install-recommends -o DPkg::Lock::Timeout=600 "${missing[@]}")
apt update
apt "${packages[@]}" --download-only
# apt refuses to work on a machine where dpkg was killed.
trap 'say "waiting for dpkg, which must not be killed"; stopped=1' INT TERM HUP
apt "${packages[@]}"
# Debian starts them as services, where there are services. They are for the tests here, which start their own.
for service in docker-registry:docker-registry openssh-server:ssh; do
  if [[ " ${missing[*]} " == *" ${service%:*} "* && -d /run/systemd/system ]]; then
    systemctl --quiet disable --now "${service#*:}" || say "could not switch the service ${service#*:} off"
  fi
done
[[ -z ${stopped-} ]] || exit 143
find_missing
((${#missing[@]} == 0)) || fail 'installed, but still missing'
