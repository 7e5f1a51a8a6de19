#!/usr/bin/env bash
# npm runs this after an install: puts Effect's diagnostics into tsc. Without the dev dependencies there is no tsc to patch.
set -euo pipefail
if command -v effect-tsgo >/dev/null; then
  effect-tsgo patch
fi
