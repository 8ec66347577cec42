#!/bin/sh
# The archiver that goes with scripts/zig-cc.sh.
exec "$CAPTIONACC_ZIG/bin/zig" ar "$@"
