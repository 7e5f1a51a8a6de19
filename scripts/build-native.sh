#!/usr/bin/env bash
# Builds the Rust addon, unless its inputs are those of the last build:
#
#     packages/native/binding/effect-microsandbox.<platform>.node
#     packages/native/src/internal/binding.ts    its types, committed
#
# It does what `napi build` does, by plain cargo: napi always passes --target, which would compile the engine a second time
# for `cargo test` and clippy.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

native=packages/native
out=$native/binding
types=$native/src/internal/binding.ts
# napi-derive writes one file for each crate here while it compiles.
macros="$CARGO_TARGET_DIR/napi-types"

sha() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

inputs_hash() {
  local inputs=($native/rust $native/Cargo.toml $native/Cargo.lock $native/build.rs $native/binding-header.txt
    scripts/build-native.sh scripts/binding-types.ts)
  {
    find "${inputs[@]}" -type f | sort
    find "${inputs[@]}" -type f -print0 | sort -z | xargs -0 cat
    sed -n '/"napi": {/,/^  }/p' $native/package.json
    grep '"version"' node_modules/@napi-rs/cli/package.json
    rustc -vV
    # What is compiled for a developer's next change is slower, and not what is published or measured.
    echo "incremental: ${CARGO_INCREMENTAL:-0}"
  } | sha | cut -d' ' -f1
}

hash="$(inputs_hash)"
if [[ "$(cat $out/stamp 2>/dev/null)" == "$hash" && -n "$(compgen -G "$out/*.node")" && -e $types ]]; then
  exit 0
fi

mkdir -p "$out" "$macros"
export NAPI_TYPE_DEF_TMP_FOLDER="$macros"
# Cargo does not know about the types: without them, make it compile our crate again.
if [[ ! -s "$macros/effect-microsandbox-native" ]]; then
  NAPI_FORCE_BUILD_EFFECT_MICROSANDBOX_NATIVE="$(date +%s)"
  export NAPI_FORCE_BUILD_EFFECT_MICROSANDBOX_NATIVE
fi

# Cargo redraws its bar in place: `Building [==>  ] 212/470: tokio, hyper`.
detail() { # log
  local count
  count="$(tr '\r' '\n' <"$1" | grep -oE '\] [0-9]+/[0-9]+' | tail -n1 | cut -c3- || true)"
  printf ': %s crates' "${count:-0}"
}

build() {
  if [[ -t 2 ]]; then
    run cargo build "${cargo_flags[@]}"
    return
  fi
  scratch="$(mktemp)"
  CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 \
    run_logged "$scratch" "building the engine" cargo build "${cargo_flags[@]}" && return
  # All but the bar.
  tr '\r' '\n' <"$scratch" | grep -vE 'Building \[|^\s*Compiling |^\s*$' >&2 || true
  return 1
}

say "building the addon and its engine (the first time takes 5 to 20 minutes)"
started=$SECONDS
if ! build; then
  say "building the addon failed."
  exit 1
fi

case "$(node -p 'process.platform + "-" + process.arch')" in
  linux-x64) library=libeffect_microsandbox_native.so platform=linux-x64-gnu ;;
  linux-arm64) library=libeffect_microsandbox_native.so platform=linux-arm64-gnu ;;
  darwin-arm64) library=libeffect_microsandbox_native.dylib platform=darwin-arm64 ;;
  *)
    say "there is no addon for this platform: Linux (x64, arm64, glibc) and macOS (arm64) only."
    exit 1
    ;;
esac

node scripts/binding-types.ts "$macros" "$out/binding.ts"
if ! cmp -s "$out/binding.ts" "$types"; then
  mkdir -p "$(dirname "$types")"
  cp "$out/binding.ts" "$types"
fi
# By rename: a process that has the old addon loaded keeps it.
addon=$out/effect-microsandbox.$platform.node
cp "$CARGO_TARGET_DIR/release/$library" "$addon.new"
mv "$addon.new" "$addon"
# A file that changed while cargo ran is not in the addon: then the stamp does not match, and the next run builds again.
printf '%s\n' "$hash" >$out/stamp
say "built $addon in $(duration $((SECONDS - started)))"
