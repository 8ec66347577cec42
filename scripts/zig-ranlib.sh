#!/bin/sh
# The ranlib that goes with scripts/zig-cc.sh.
exec "$CAPTIONACC_ZIG/bin/zig" ranlib "$@"
