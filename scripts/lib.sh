# shellcheck shell=bash
# Shared by the scripts of this folder: sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*" >&2; }

# Installs the Debian packages that are not there yet: as root, or through sudo.
need_packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    echo "error: these Debian packages are needed and this is no Debian system: ${missing[*]}" >&2
    echo "hint: install their counterparts by hand, see CONTRIBUTING.md" >&2
    exit 1
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "error: root is needed for: apt-get install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get -q update >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" >&2
}

# Unpacks the sources of Debian packages into the folder, which is there and empty. Debian's machines list binary packages only:
# the same archives are asked for their sources, in lists of our own.
fetch_debian_sources() {
  local into=$1 lists
  shift
  need_packages dpkg-dev
  lists=$(mktemp -d)
  mkdir -p "$lists/lists/partial" "$lists/parts"
  [ ! -f /etc/apt/sources.list ] || sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$lists/parts/debian.list"
  for sources in /etc/apt/sources.list.d/debian*.sources; do
    [ ! -f "$sources" ] || sed -e 's/^Types: .*/Types: deb-src/' "$sources" >"$lists/parts/$(basename "$sources")"
  done
  local apt=(apt-get -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$lists/parts" -o "Dir::State::Lists=$lists/lists"
    -o "APT::Sandbox::User=root")
  "${apt[@]}" -q update
  (cd "$into" && "${apt[@]}" -q source "$@")
  rm -rf "$lists"
}

need_command() {
  command -v "$1" >/dev/null && return
  echo "error: $1 is missing" >&2
  echo "hint: $2" >&2
  exit 1
}

# The packages of node_modules, as the lock file has them. Scripts that start side by side install them once.
need_node_modules() {
  need_command node "install Node.js 20 or newer (Debian: apt-get install nodejs npm)"
  has_node_modules && return
  # better-sqlite3, of the tests and the demo, compiles itself where its prebuilt binary cannot be had.
  need_packages build-essential python3
  mkdir -p .cache
  (
    flock 9
    has_node_modules && exit
    say "installing npm packages"
    npm ci --no-audit --no-fund >&2
    touch node_modules/.package-lock.json
  ) 9>.cache/node_modules.lock
}

has_node_modules() {
  [ -f node_modules/.package-lock.json ] && [ ! package-lock.json -nt node_modules/.package-lock.json ]
}

# The compilers and tools of a build, beside Rust's.
need_build_packages() {
  need_packages build-essential pkg-config nasm libclang-dev dpkg-dev meson ninja-build
}

# What cargo needs: a linker for an old glibc, libclang for the bindings of libav, and (except for the addon) libav itself and the
# pages of the dashboard.
prepare_cargo() {
  need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
  need_build_packages
  prepare_linker
  FFMPEG_DIR="$(bash scripts/build-libav.sh)"
  export FFMPEG_DIR
  bash scripts/build-dashboard.sh
}

# On Linux everything is linked against glibc 2.28: what is tested is what ships, and a build runs on older systems than the
# one that made it.
prepare_linker() {
  [ "$(uname -s)" = Linux ] || return 0
  CAPTIONACC_ZIG=$(bash scripts/zig.sh)
  export CAPTIONACC_ZIG
  export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER="$PWD/scripts/zig-cc.sh"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$PWD/scripts/zig-cc.sh"
}
