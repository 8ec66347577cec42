#!/usr/bin/env bash
# Runs a command of 64-bit ARM, and all that it starts, under qemu: scripts/on-arm64.sh ROOT COMMAND [ARGUMENT …]
# ROOT is what scripts/arm64-root.sh prints. The kernel learns of qemu in a user namespace of this command alone, which
# Linux knows since 6.7, and whatever the command leaves behind ends with it.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
  exec unshare --user --map-root-user --mount --pid --fork --kill-child --mount-proc bash "$0" --inside "$@"
fi
# Beside this system's libraries, for every process: a child may have another environment than its parent.
mount -t overlay overlay -o "lowerdir=$2/lib:$2/usr/lib:/usr/lib" /usr/lib
shift 2
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":arm64:M::$magic:$mask:/usr/bin/qemu-aarch64-static:F" >/proc/sys/fs/binfmt_misc/register
exec "$@"
