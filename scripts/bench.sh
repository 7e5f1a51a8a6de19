#!/usr/bin/env bash
# The bench: makes the machine and the checkout ready, builds what is compared with, then runs test/bench/main.ts.
#
#     npm run bench [-- <row>…]
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# What may end with "install this" comes before what takes long.
run bash test/host/run.sh --install rootfs registry || exit
run bash scripts/setup.sh || exit
# What is published is what is imported.
run tsc -b packages/native packages/core || exit
run node scripts/bundle.ts packages/native packages/core || exit
run cargo build "${cargo_flags[@]}" --bin bench --features bench || exit
# exec: a signal to this script is a signal to the bench.
exec node test/bench/main.ts "$@"
