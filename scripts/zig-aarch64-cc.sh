#!/bin/sh
# scripts/zig-cc.sh for 64-bit ARM.
case " $* " in
  # How Meson asks for predefined macros: without a language for what comes from stdin, zig 0.17 hands its own spelling of
  # the target to clang, which does not know it.
  *' -E -dM - '*) set -- -x c "$@" ;;
esac
ZIG_CC_ARCHITECTURE=aarch64 exec "$(dirname "$0")/zig-cc.sh" "$@"
