#!/usr/bin/env bash
# Builds everything that ships: the worker's binary (dist/captionacc) and the Node addon (captionacc.node).
# Installs what it needs first. Later calls only build what has changed.
. "$(dirname "$0")/lib.sh"

# Puts a build in its place at once, without its line tables: they are most of its bytes, and stay in target/. The symbol
# table stays, so that a panic's backtrace names its functions.
install_stripped() {
  strip -S -o "$2.new" "$1"
  chmod 755 "$2.new"
  mv "$2.new" "$2"
}

prepare_cargo
need_node_modules
# Builds that start side by side put their results in place one after the other.
exec 9>.cache/build.lock
flock 9

say "building the worker"
cargo build --release --locked --no-default-features --features worker --bin captionacc >&2
mkdir -p dist
install_stripped target/release/captionacc dist/captionacc

say "building the Node addon"
cargo build --release --locked --lib --target-dir target/addon >&2
library=target/addon/release/libcaptionacc.so
[ -f "$library" ] || library=target/addon/release/libcaptionacc.dylib
install_stripped "$library" captionacc.node
