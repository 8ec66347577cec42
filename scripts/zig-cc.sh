#!/bin/sh
# The C compiler and linker of Linux builds: zig's, which links against the symbols of glibc 2.28 (Debian 10, RHEL 8)
# whatever this system has. It takes rustc's arguments and a compiler's alike.
#
# CAPTIONACC_ZIG is the folder of scripts/zig.sh; ZIG_CC_ARCHITECTURE another architecture than this machine's.
export CARGO_ZIGBUILD_ZIG_COMMAND="$CAPTIONACC_ZIG/bin/zig" CARGO_ZIGBUILD_ZIG_VERSION=0.17.1
export ZIG_GLOBAL_CACHE_DIR="$CAPTIONACC_ZIG/cache" ZIG_LOCAL_CACHE_DIR="$CAPTIONACC_ZIG/cache"
exec "$CAPTIONACC_ZIG/bin/cargo-zigbuild" zig cc -- -g -fno-sanitize=all \
  -target "${ZIG_CC_ARCHITECTURE:-$(uname -m)}-linux-gnu.2.28" "$@"
