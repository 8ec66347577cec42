#!/usr/bin/env bash
# Makes the packages that are published, as tarballs in dist/packages:
#
#   npm run package                         all of it, for this platform
#   npm run package -- linux-arm64-gnu      also for a platform that is built across (scripts/build-across.sh)
#   npm run package -- --platform-only      only the package of this platform, as each machine of a release makes it
#   npm run package -- --main PLATFORM…     only the main package, which names these platforms, and the models
#
# Builds what is missing or stale first; CAPTIONACC_NO_BUILD takes what is there.
. "$(dirname "$0")/lib.sh"

need_command node "install Node.js 20 or newer (Debian: apt-get install nodejs npm)"
need_packages binutils
across=()
if [ "${1:-}" = --main ]; then
  bash scripts/fetch-models.sh
else
  [ -n "${CAPTIONACC_NO_BUILD:-}" ] || bash scripts/build.sh
  for argument in "$@"; do
    [ "$argument" = --platform-only ] || across+=("$argument")
  done
  for platform in "${across[@]}"; do
    [ -n "${CAPTIONACC_NO_BUILD:-}" ] || bash scripts/build-across.sh "$platform"
  done
  # Nothing is built: where it lies, for its licences.
  CAPTIONACC_LIBAV=$(bash scripts/build-libav.sh)
  export CAPTIONACC_LIBAV
fi
exec node scripts/package.mjs "$@"
