#!/usr/bin/env bash
# Makes a bare Debian 11 (glibc 2.31) once, with Node.js and npm and nothing else beyond the minimum, in .cache/roots.
# Prints its folder. The install test (__test__/install.spec.ts) runs in it and leaves it as it is.
. "$(dirname "$0")/lib.sh"

suite=bullseye
node_version=22.23.3
npm_version=10.9.9

if [ "$(id -u)" -ne 0 ]; then
  echo "error: root is needed, to make a Debian root with debootstrap and to enter it (chroot, mount, unshare)" >&2
  echo "hint: run it as root, on a machine or in a container that may do that (Docker: --privileged)" >&2
  exit 1
fi
# The last two are for who enters it.
need_packages debootstrap debian-archive-keyring util-linux iproute2
need_command npm "install Node.js 20 or newer with npm"

roots="${CAPTIONACC_CACHE:-$PWD/.cache}/roots"
architecture=$(node --print process.arch)
root="$roots/$suite-$architecture-node$node_version-npm$npm_version"
mkdir -p "$roots"
# Tests start side by side, and each may be the first that needs it.
exec 9>"$root.lock"
flock 9
if [ -d "$root" ]; then
  echo "$root"
  exit 0
fi

say "making a bare Debian 11 root"
# What somebody left who was killed: nobody else is at work here.
rm -rf "$root".new.*
work=$(mktemp -d "$root.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
# debootstrap mounts, and unmounts only where it comes to its end. So its mounts are its own, and it ends with this script.
apart=(setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child)
bootstrap() {
  # Once the suite is too old for the first, the second has it.
  for mirror in http://deb.debian.org/debian http://archive.debian.org/debian; do
    "${apart[@]}" debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 && return
    tail -n 20 "$work/log" >&2
    rm -rf "$work/root"
  done
  echo "error: debootstrap could not make a Debian 11 root, as told above" >&2
  exit 1
}
bootstrap
rm -rf "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/lib/apt/lists/*
# Which every installed system and every container has.
echo '127.0.0.1 localhost' >"$work/root/etc/hosts"
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$work/node" \
  "node-linux-$architecture@$node_version" "npm@$npm_version" >&2
install "$work/node/node_modules/node-linux-$architecture/bin/node" "$work/root/usr/local/bin/node"
mkdir -p "$work/root/usr/local/lib/node_modules"
mv "$work/node/node_modules/npm" "$work/root/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/root/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$work/root/usr/local/bin/npx"
mv "$work/root" "$root"
echo "$root"
