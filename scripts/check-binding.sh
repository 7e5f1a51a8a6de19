#!/usr/bin/env bash
# The committed types of the addon are those of the built addon.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

types=packages/native/src/internal/binding.ts
stale() {
  say "$types $1"
  exit 1
}
cmp -s packages/native/binding/binding.ts $types || stale "differs from the addon's types: do not edit it, run scripts/build-native.sh."
git ls-files --error-unmatch $types >/dev/null 2>&1 || stale "is not committed."
git diff --exit-code --stat HEAD -- $types >&2 || stale "differs from the committed one: the addon's interface has changed, commit the file."
