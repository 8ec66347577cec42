#!/usr/bin/env bash
# Becomes the `captionacc` binary of this checkout, built first if it is missing or older than what it is made of.
# `npm run worker`, `dashboard`, `setup` and `deploy` call it.
. "$(dirname "$0")/lib.sh"

is_stale() {
  [ -x dist/captionacc ] || return 0
  [ -n "$(find src dashboard/src build.rs Cargo.toml Cargo.lock -newer dist/captionacc -print -quit)" ]
}

# CAPTIONACC_NO_BUILD: what is there is used as it is.
if [ -z "${CAPTIONACC_NO_BUILD:-}" ] && is_stale; then
  bash scripts/build.sh
fi
# The binary takes the place of this shell, so that it gets the signals. npm passes on none of them: the worker
# watches its ancestors instead.
exec dist/captionacc "$@"
