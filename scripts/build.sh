#!/usr/bin/env bash
# Builds everything that ships: the worker's binary (dist/captionacc), its OCR models (dist/models) and the Node addon
# (captionacc.node). Installs what it needs first. Later calls only build what has changed.
. "$(dirname "$0")/lib.sh"

# Puts a build in its place at once, without its line tables: they are most of its bytes, and stay in target/. The symbol
# table stays, so that a panic's backtrace names its functions.
install_stripped() {
  strip -S -o "$2.new" "$1"
  chmod 755 "$2.new"
  mv "$2.new" "$2"
}

need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
need_build_packages
mkdir -p .cache dist
# Builds that start side by side put their results in place one after the other.
exec 9>.cache/build.lock
flock 9

# libav is needed by the worker alone: it is built beside the addon and all crates.
bash scripts/build-libav.sh >.cache/libav.path 9>&- &
libav=$!
trap 'kill "$libav" 2>/dev/null || true' EXIT
bash scripts/fetch-models.sh 9>&-
bash scripts/build-dashboard.sh 9>&-
prepare_linker

say "building the Node addon"
cargo rustc --release --locked --lib --crate-type cdylib --features addon,worker-dependencies >&2
library=target/release/libcaptionacc.so
[ -f "$library" ] || library=target/release/libcaptionacc.dylib
install_stripped "$library" captionacc.node

wait "$libav"
FFMPEG_DIR=$(cat .cache/libav.path)
export FFMPEG_DIR
say "building the worker"
cargo build --release --locked --no-default-features --features worker,addon-dependencies --bin captionacc >&2
install_stripped target/release/captionacc dist/captionacc
