#!/usr/bin/env bash
# Runs a command with a Prefect server of its own on a free loopback port, and stops the server with it:
#
#   scripts/with-prefect.sh cargo nextest run --no-default-features --features worker -E 'test(prefect)'
#
# With --on-postgresql before the command, the server keeps its data in a PostgreSQL of its own instead of SQLite.
#
# The command finds its API in CAPTIONACC_TEST_PREFECT_API_URL, where the tests look for it; without it each test starts
# a server, which takes 8 s.
here="$PWD"
. "$(dirname "$0")/lib.sh"

database=sqlite
if [ "${1:-}" = --on-postgresql ]; then
  database=postgresql
  shift
  need_packages postgresql util-linux
fi
environment=$(bash scripts/prefect-env.sh)
home=$(mktemp -d)
server=
# PostgreSQL refuses to run as root; Debian's package brings a user for it.
as_postgres=()
[ "$(id -u)" -ne 0 ] || as_postgres=(setpriv --reuid postgres --regid postgres --clear-groups --)
postgres() { "${as_postgres[@]}" "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/$1" "${@:2}" >/dev/null; }
stop() {
  # The server is the leader of a process group of its own.
  # However it ends, the rest is done.
  set +e
  [ -n "$server" ] && kill -KILL -- "-$server" 2>/dev/null && wait "$server" 2>/dev/null
  [ -f "$home/postgres/data/postmaster.pid" ] && postgres pg_ctl stop --mode=immediate -D "$home/postgres/data"
  rm -rf "$home"
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
settings=()
if [ "$database" = sqlite ]; then
  cp "$environment"/template/prefect.db "$home/"
else
  mkdir "$home/postgres"
  [ "$(id -u)" -ne 0 ] || { chown postgres "$home/postgres" && chmod 711 "$home"; }
  data="$home/postgres/data"
  database_port=$(free_port)
  cd "$home/postgres"
  postgres initdb --no-sync --auth=trust --username=prefect -D "$data"
  options="-c listen_addresses=127.0.0.1 -c port=$database_port -c unix_socket_directories=$home/postgres"
  postgres pg_ctl start --wait -D "$data" -o "$options" -l "$home/postgres/log"
  postgres createdb -h 127.0.0.1 -p "$database_port" -U prefect prefect
  settings=("PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect@127.0.0.1:$database_port/prefect")
fi
port=$(free_port)
# setpriv: a server whose script was killed by force goes with it.
env -i PATH="$PATH" HOME="$home" PREFECT_HOME="$home" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false "${settings[@]}" \
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
