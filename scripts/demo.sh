#!/usr/bin/env bash
# The demo: makes the machine and the checkout ready, then runs demo/main.ts where microVMs can boot.
#
#     npm run demo [-- --image <reference>]
set -euo pipefail
source "$(dirname "$0")/lib.sh"

needs=rootfs
# An image comes from a registry, also into the software host.
if [[ "$*" == *--image* ]]; then
  needs=
  export HOST_NETWORK=1
fi
# What may end with "install this" comes before what takes long.
run bash test/host/run.sh --install $needs || exit
run bash scripts/setup.sh || exit
# exec: a signal to this script is a signal to the demo.
exec bash test/host/run.sh -- node demo/main.ts "$@"
