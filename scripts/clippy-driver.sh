#!/usr/bin/env bash
# Cargo calls this in place of rustc for our own crate (RUSTC_WORKSPACE_WRAPPER): lints it against the dependencies' release
# artifacts, which `cargo clippy` would not use but check once more, for many minutes.
set -euo pipefail

arguments=("$@")
# The build script has to run. Of our crate only the lints are wanted, no machine code.
if [[ "${CARGO_CRATE_NAME-}" == effect_microsandbox_native ]]; then
  arguments=("${arguments[@]/#--emit=dep-info,link/--emit=dep-info,metadata}")
fi
exec clippy-driver "${arguments[@]}"
