# Sourced by the scripts beside it.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

# The repository brings its own Node: the machine's may be too old to run it.
export PATH="$root/node_modules/.bin:$PATH"

# One profile and one directory for everything that cargo does, so that the engine compiles once.
export CARGO_TARGET_DIR="$root/packages/native/target"
cargo_flags=(--release --locked --manifest-path packages/native/Cargo.toml)

say() { printf '%s\n' "$*" >&2; }

# 65 -> 1m05s
duration() {
  if (($1 < 60)); then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}
