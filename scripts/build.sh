#!/usr/bin/env bash
# Builds everything that ships: the worker's binary (dist/captionacc) and the Node addon (captionacc.node).
# Installs what it needs first. Later calls only build what has changed.
. "$(dirname "$0")/lib.sh"

prepare_cargo
need_node_modules

say "building the worker"
cargo build --release --locked --no-default-features --features worker --bin captionacc >&2
mkdir -p dist
install -m 755 target/release/captionacc dist/captionacc.new
mv dist/captionacc.new dist/captionacc

say "building the Node addon"
cargo build --release --locked --lib --target-dir target/addon >&2
library=target/addon/release/libcaptionacc.so
[ -f "$library" ] || library=target/addon/release/libcaptionacc.dylib
install -m 755 "$library" captionacc.node.new
mv captionacc.node.new captionacc.node
