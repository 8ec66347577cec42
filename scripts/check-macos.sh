#!/usr/bin/env bash
# Type-checks addon and worker for macOS (arm64) on a Debian machine:
#
#   npm run check:macos                              both builds
#   bash scripts/check-macos.sh clippy --lib …       any command of cargo-zigbuild instead
#
# rustup may not be there, and its standard library for another system with it. Debian's security archive has a current rustc
# and the source of its standard library, which cargo's build-std compiles; both are unpacked into .cache/check-macos (nothing is
# installed). zig is the C compiler of the crates with C code (SQLite, ring) and has macOS' C headers.
#
# What it does not show: zig has no frameworks of macOS, so nothing is linked; and nothing runs.
. "$(dirname "$0")/lib.sh"

target=aarch64-apple-darwin
cache="${CAPTIONACC_CACHE:-$PWD/.cache}"
root="$cache/check-macos"
mkdir -p "$root"
need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
need_packages dpkg-dev libclang-dev

# Debian's packages, with lists of our own: a machine that is not Debian 12 with its security archive has others, or none.
unpack_rustc() {
  [ -f "$root/.complete" ] && return
  say "unpacking Debian's rustc and the source of its standard library"
  local lists="$root/apt" work
  work=$(mktemp -d)
  rm -rf "$root/rustc"
  mkdir -p "$lists/partial" "$root/rustc"
  local apt=(apt-get -q -o "Dir::State::Lists=$lists" -o "Dir::State::status=/dev/null" -o "APT::Sandbox::User=root" -o "Debug::NoLocking=1")
  "${apt[@]}" update
  # rustc's own libraries and LLVM come along, all but those of the C library.
  # shellcheck disable=SC2046 # a list of names
  (cd "$work" && "${apt[@]}" download rustc-web rust-web-src libstd-rust-web-dev \
    $("${apt[@]}" --simulate --no-install-recommends install rustc-web | awk '/^Inst/ {print $2}' |
      grep -E '^(libstd-rust-web|libllvm|libz3|libedit|libbsd|libmd|libxml2|libicu|libffi|libtinfo|zlib1g|libzstd|liblzma)' | sort -u))
  for package in "$work"/*.deb; do
    case $package in
      # Of the 340 MB of source, the library is all that is needed.
      */rust-web-src_*)
        dpkg --fsys-tarfile "$package" |
          tar -xC "$root/rustc" --wildcards --no-wildcards-match-slash './usr/src/*/library' './usr/lib'
        ;;
      *) dpkg -x "$package" "$root/rustc" ;;
    esac
  done
  rm -rf "$work"
  cat >"$root/rustc.sh" <<END
#!/bin/sh
LD_LIBRARY_PATH=$root/rustc/usr/lib/$(uname -m)-linux-gnu exec $root/rustc/usr/bin/rustc "\$@"
END
  chmod +x "$root/rustc.sh"
  touch "$root/.complete"
}

exec 9>"$cache/check-macos.lock"
flock 9
unpack_rustc >&2
prepare_linker
bash scripts/build-dashboard.sh 9>&-
# Its headers are all that a check reads of libav, and they are the same on each system.
FFMPEG_DIR=$(bash scripts/build-libav.sh)
export FFMPEG_DIR
# build-std is an unstable option of a stable compiler.
export RUSTC="$root/rustc.sh" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$root/target" XDG_CACHE_HOME="$root/xdg"
export CARGO_ZIGBUILD_ZIG_COMMAND="$CAPTIONACC_ZIG/bin/zig" CARGO_ZIGBUILD_ZIG_VERSION=0.17.1

# The headers that the bindings of libav include are zig's, as those of the C code are.
headers=$(dirname "$(readlink -f "$CAPTIONACC_ZIG/bin/zig")")/lib
# This form of the name goes before the one that cargo-zigbuild sets.
bindings="BINDGEN_EXTRA_CLANG_ARGS_$target=-isystem $headers/include -isystem $headers/libc/include/any-darwin-any"

zigbuild() {
  local subcommand=$1
  shift
  # Nothing runs: optimised dependencies and macros would only take time.
  nice env "$bindings" "$CAPTIONACC_ZIG/bin/cargo-zigbuild" "$subcommand" --locked --target "$target" -Z build-std=std,panic_unwind \
    --config 'profile.dev.package."*".opt-level=0' "$@"
}

if [ $# -gt 0 ]; then
  zigbuild "$@"
  exit
fi
status=0
# As scripts/build.sh builds them: with the same features, so that every crate is checked once.
say "checking the Node addon for macOS"
zigbuild check --lib --features addon,worker-dependencies || status=1
say "checking the worker for macOS"
zigbuild check --no-default-features --features worker,addon-dependencies --bin captionacc || status=1
exit $status
