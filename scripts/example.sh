#!/usr/bin/env bash
# Starts the example web app (examples/web-app) with a worker beside it, and prints its address. Installs and builds what
# it needs first. Ctrl-C ends both; runs that are at work then go on with the next start.
# PORT: where it listens, 3000 or a free one unless set. CAPTIONACC_EXAMPLE_DATA: its films and its queue (example-data/).
. "$(dirname "$0")/lib.sh"

app=examples/web-app
export EXAMPLE_DATA="${CAPTIONACC_EXAMPLE_DATA:-$PWD/example-data}"

# CAPTIONACC_NO_BUILD: what is there is used as it is.
[ -n "${CAPTIONACC_NO_BUILD:-}" ] || bash scripts/build.sh
need_command node "install Node.js 20 or newer (Debian: apt-get install nodejs npm)"

install_app() {
  [ -f "$app/node_modules/.package-lock.json" ] && [ ! "$app/package-lock.json" -nt "$app/node_modules/.package-lock.json" ] && return
  say "installing the example's npm packages"
  (cd "$app" && npm ci --ignore-scripts --no-audit --no-fund >&2)
  # better-sqlite3 compiles itself for minutes where its prebuilt binary cannot be had: once is enough.
  local own=node_modules/better-sqlite3 theirs=$app/node_modules/better-sqlite3
  if [ -f $own/build/Release/better_sqlite3.node ] && cmp -s $own/package.json "$theirs/package.json"; then
    mkdir -p "$theirs/build/Release"
    cp $own/build/Release/better_sqlite3.node "$theirs/build/Release/"
  else
    need_packages build-essential python3
    (cd "$app" && npm rebuild better-sqlite3 >&2)
  fi
  touch "$app/node_modules/.package-lock.json"
}

build_app() {
  [ -f "$app/build/server/index.js" ] &&
    [ -z "$(find "$app"/{app,package-lock.json,vite.config.ts} -newer "$app/build/server/index.js" -print -quit)" ] && return
  say "building the example"
  local said
  said=$(cd "$app" && node node_modules/@react-router/dev/bin.js build 2>&1) || { echo "$said" >&2; return 1; }
}

mkdir -p .cache "$EXAMPLE_DATA"
(
  flock 9
  install_app
  build_app
) 9>.cache/example.lock
# Films that lie ready: one with captions, Chinese and English, and two short ones.
export EXAMPLE_FILMS="$EXAMPLE_DATA/films"
mkdir -p "$EXAMPLE_FILMS"
films=$(bash scripts/fetch-films.sh)
ln -sf "$(bash scripts/captioned-film.sh)" "$films"/{bigbuckbunny,bikes}.mp4 "$EXAMPLE_FILMS/"

# A queue of its own, whatever this user has set up.
export CAPTIONACC_HOME="$EXAMPLE_DATA/home" CAPTIONACC_ORCHESTRATOR=embedded
unset CAPTIONACC_CONFIG
# This machine's browser alone: the app asks nobody who they are.
export HOST="${HOST:-127.0.0.1}"

is_stopping="" worker="" server=""
stop() {
  [ -n "$is_stopping" ] || say "stopping: runs that are at work may end first. Once more stops at once"
  is_stopping=yes
  kill -TERM $worker $server 2>/dev/null || true
}
trap stop INT TERM HUP
# Whatever ends this script, it leaves nothing behind.
trap 'kill -TERM $worker $server 2>/dev/null || true' EXIT

# In sessions of their own, so that Ctrl-C reaches them once, from here: a second signal stops a worker at once.
worker_log="$EXAMPLE_DATA/worker.log" app_log="$EXAMPLE_DATA/app.log"
setsid dist/captionacc worker >"$worker_log" 2>&1 &
worker=$!
(cd "$app" && exec setsid node node_modules/@react-router/serve/bin.js build/server/index.js) >"$app_log" 2>&1 &
server=$!

# Until the app says where it is; it may have found port 3000 taken.
while kill -0 "$server" 2>/dev/null && [ -z "$is_stopping" ]; do
  port=$(sed -n 's/^\[react-router-serve\] .*localhost:\([0-9]*\).*/\1/p' "$app_log" 2>/dev/null || true)
  [ -n "$port" ] && break
  sleep 0.1
done
[ -z "${port:-}" ] || say "the example is at http://$HOST:$port (Ctrl-C ends it; logs and films are in $EXAMPLE_DATA)"

# A signal ends this waiting, and so does either of the two: without the other it is of no use.
wait -n "$worker" "$server" || true
if [ -z "$is_stopping" ]; then
  failed=yes
  kill -0 "$server" 2>/dev/null && log=$worker_log || log=$app_log
  tail -n 20 "$log" >&2
  echo "error: the example ended by itself, see $log" >&2
  grep -q EADDRINUSE "$app_log" && echo "hint: port ${PORT:-3000} is taken: give another PORT, or none" >&2
  stop
fi
while kill -0 "$worker" 2>/dev/null || kill -0 "$server" 2>/dev/null; do
  wait "$worker" "$server" || true
done
[ -z "${failed:-}" ]
