#!/usr/bin/env bash
# Gets zig, which links for an old glibc and compiles C for other systems, and cargo-zigbuild, which gives it rustc's
# arguments, and a Meson that knows zig, from PyPI into .cache/zig/<version>. Prints that folder; everything else goes to stderr.
. "$(dirname "$0")/lib.sh"

version=0.17.1
cargo_zigbuild=0.24.1
meson=1.12.1
folder="${CAPTIONACC_CACHE:-$PWD/.cache}/zig/$version-$cargo_zigbuild-$meson"
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if [ ! -f "$folder/.complete" ]; then
  need_command python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
  say "fetching zig $version"
  rm -rf "$folder"
  {
    # Debian keeps the venv module in a package of its own.
    python3 -m venv "$folder" || { need_packages python3-venv && python3 -m venv "$folder"; }
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "ziglang==$version" "cargo-zigbuild==$cargo_zigbuild" \
      "meson==$meson"
    ln -s "$(find "$folder/lib" -path '*/ziglang/zig' -type f)" "$folder/bin/zig"
    touch "$folder/.complete"
  } >&2
fi
echo "$folder"
