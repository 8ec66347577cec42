#!/usr/bin/env bash
# Runs a command with a Prefect server of its own on a free loopback port, and stops the server with it:
#
#   scripts/with-prefect.sh cargo nextest run --no-default-features --features worker -E 'test(prefect)'
#
# The command finds its API in CAPTIONACC_TEST_PREFECT_API_URL, where the tests look for it; without it each test starts
# a server, which takes 8 s.
here="$PWD"
. "$(dirname "$0")/lib.sh"

environment=$(bash scripts/prefect-env.sh)
home=$(mktemp -d)
server=
stop() {
  # The server is the leader of a process group of its own.
  [ -n "$server" ] && kill -KILL -- "-$server" 2>/dev/null && wait "$server" 2>/dev/null
  rm -rf "$home"
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

cp "$environment"/template/prefect.db "$home/"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# setpriv: a server whose script was killed by force goes with it.
env -i PATH="$PATH" HOME="$home" PREFECT_HOME="$home" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
  setsid setpriv --pdeathsig KILL "$environment/bin/prefect" server start --host 127.0.0.1 --port "$port" --no-ui \
  >"$home/server.log" 2>&1 </dev/null &
server=$!
for _ in $(seq 600); do
  kill -0 "$server" 2>/dev/null || break
  if python3 - "$port" 2>/dev/null <<'PYTHON'
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{sys.argv[1]}/api/health", timeout=2)
PYTHON
  then
    export CAPTIONACC_TEST_PREFECT_API_URL="http://127.0.0.1:$port/api"
    cd "$here"
    "$@"
    exit
  fi
  sleep 0.1
done
echo "error: the Prefect server did not start:" >&2
cat "$home/server.log" >&2
exit 1
