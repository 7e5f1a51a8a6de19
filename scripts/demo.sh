#!/usr/bin/env bash
# The demo: makes the checkout ready, then runs demo/main.ts where microVMs can boot.
#
#     npm run demo [-- --image <reference>]
set -euo pipefail
source "$(dirname "$0")/lib.sh"

bash scripts/setup.sh
# exec: a signal to this script is a signal to the demo.
exec bash test/host/run.sh -- node demo/main.ts "$@"
