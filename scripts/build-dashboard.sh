#!/usr/bin/env bash
# Builds the pages of the dashboard (dashboard/) into dashboard/dist, from where cargo takes them into the binary. Later calls
# do nothing unless something has changed. Its few npm packages are its own: none of them runs anything when it is installed.
. "$(dirname "$0")/lib.sh"

need_command node "install Node.js 20 or newer (Debian: apt-get install nodejs npm)"
mkdir -p .cache
# Builds that start side by side build it once.
exec 8>.cache/dashboard.lock
flock 8

# Older than what it is made of, or not there.
is_older() {
  [ ! -f "$1" ] || [ -n "$(find "${@:2}" -newer "$1" -print -quit)" ]
}

cd dashboard
if is_older node_modules/.package-lock.json package-lock.json; then
  say "installing the npm packages of the dashboard"
  npm ci --ignore-scripts --no-audit --no-fund >&2 8>&-
  touch node_modules/.package-lock.json
fi
if is_older dist/app.js.gz src index.html icon.svg build.mjs package-lock.json; then
  say "building the pages of the dashboard"
  node build.mjs >&2 8>&-
fi
