#!/usr/bin/env bash
# Builds addon and binary for another platform than this machine's into dist/<platform>:
#
#   scripts/build-across.sh linux-arm64-gnu
#
# rustup may not be there, and its standard library for another system with it: Debian's security archive has a current rustc and
# that library, which are unpacked into .cache/rustc-web (nothing is installed). zig is the C compiler and the linker.
. "$(dirname "$0")/lib.sh"

platform="${1:-}"
[ "$platform" = linux-arm64-gnu ] || { echo "error: there is no recipe for ${platform:-no platform}: linux-arm64-gnu" >&2; exit 1; }
triple=aarch64-unknown-linux-gnu
cache="${CAPTIONACC_CACHE:-$PWD/.cache}"
mkdir -p "$cache"
need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
need_packages build-essential pkg-config libclang-dev dpkg-dev binutils-aarch64-linux-gnu

# Debian's packages of an architecture, with lists of our own: this machine's know its own architecture only.
apt_of() {
  local lists="$cache/apt-$1"
  mkdir -p "$lists/partial"
  apt=(apt-get -q -o "APT::Architecture=$1" -o "APT::Architectures=$1" -o "Dir::State::Lists=$lists" -o "Dir::State::status=/dev/null"
    -o "APT::Sandbox::User=root" -o "Debug::NoLocking=1")
}

unpack_rustc() {
  local root="$cache/rustc-web" work
  [ -f "$root/.complete" ] && return
  say "unpacking Debian's rustc with the standard library for $platform"
  work=$(mktemp -d)
  rm -rf "$root"
  mkdir -p "$root"
  local apt native
  native=$(dpkg --print-architecture)
  apt_of "$native"
  "${apt[@]}" update
  # rustc's own libraries and LLVM come along, all but those of the C library.
  (cd "$work" && "${apt[@]}" download rustc-web libstd-rust-web-dev $("${apt[@]}" --simulate --no-install-recommends install rustc-web |
    awk '/^Inst/ {print $2}' | grep -E '^(libstd-rust-web|libllvm|libz3|libedit|libbsd|libmd|libxml2|libicu|libffi|libtinfo|zlib1g|libzstd|liblzma)' | sort -u))
  apt_of arm64
  "${apt[@]}" update
  (cd "$work" && "${apt[@]}" download libstd-rust-web-dev)
  for package in "$work"/*.deb; do dpkg -x "$package" "$root"; done
  rm -rf "$work"
  touch "$root/.complete"
}

exec 9>"$cache/build-across.lock"
flock 9
{
  unpack_rustc
  prepare_linker
  FFMPEG_DIR=$(bash scripts/build-libav.sh "$platform")
  bash scripts/build-dashboard.sh 9>&-
  export FFMPEG_DIR
  root="$cache/rustc-web"
  cat >"$root/rustc" <<EOF
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/$(uname -m)-linux-gnu exec $root/usr/bin/rustc "\$@"
EOF
  chmod +x "$root/rustc"
  export RUSTC="$root/rustc"
  # As the crates that build C code ask for it.
  export CC_aarch64_unknown_linux_gnu="$PWD/scripts/zig-aarch64-cc.sh" AR_aarch64_unknown_linux_gnu="$PWD/scripts/zig-ar.sh"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$PWD/scripts/zig-aarch64-cc.sh"
  # libclang, which reads libav's headers for the bindings, has no headers of another system's C library: zig has them.
  headers=$(dirname "$(realpath "$CAPTIONACC_ZIG/bin/zig")")/lib
  export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--target=aarch64-linux-gnu -nostdinc -isystem $headers/include
    -isystem $headers/libc/include/aarch64-linux-gnu -isystem $headers/libc/include/generic-glibc
    -isystem $headers/libc/include/aarch64-linux-any -isystem $headers/libc/include/any-linux-any"
  say "building the Node addon for $platform"
  cargo rustc --release --locked --target "$triple" --lib --crate-type cdylib --features addon,worker-dependencies
  say "building the worker for $platform"
  cargo build --release --locked --target "$triple" --no-default-features --features worker,addon-dependencies --bin captionacc

  mkdir -p "dist/$platform"
  rm -rf "dist/$platform/libav"
  mkdir "dist/$platform/libav"
  cp -r "$FFMPEG_DIR/licences" "$FFMPEG_DIR/versions" "dist/$platform/libav/"
  # The symbol table stays, as in scripts/build.sh.
  strip_across() { aarch64-linux-gnu-strip -S -o "$2.new" "$1" && chmod 755 "$2.new" && mv "$2.new" "$2"; }
  strip_across "target/$triple/release/captionacc" "dist/$platform/captionacc"
  strip_across "target/$triple/release/libcaptionacc.so" "dist/$platform/captionacc.node"
} >&2
