#!/usr/bin/env bash
# Makes a Python environment with Prefect 3 from PyPI in .cache/prefect/<version>: the real server, the stock worker and the
# Python client that judge ours. Prints its folder on stdout; everything else goes to stderr. A finished one is reused.
#
# CAPTIONACC_TEST_PREFECT_VERSION takes another version than the one that the tests were written against.
. "$(dirname "$0")/lib.sh"

version="${CAPTIONACC_TEST_PREFECT_VERSION:-3.9.1}"
environment="${CAPTIONACC_CACHE:-$PWD/.cache}/prefect/$version"
if [ -f "$environment/.complete" ]; then
  echo "$environment"
  exit 0
fi
mkdir -p "$(dirname "$environment")"
# Tests start side by side, and each may be the first that needs it.
exec 9>"$environment.lock"
flock 9
if [ -f "$environment/.complete" ]; then
  echo "$environment"
  exit 0
fi

{
  need_command python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
  say "installing Prefect $version"
  rm -rf "$environment"
  # Debian keeps the venv module in a package of its own.
  python3 -m venv "$environment" || { need_packages python3-venv && python3 -m venv "$environment"; }
  pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check)
  if ! "${pip[@]}" "prefect==$version"; then
    # A mirror can be some days behind PyPI, and Prefect asks for a certifi of the week of its release: the newest
    # certifi that there is will do, with every other requirement as it is.
    say "not as it is: installing its requirements with the newest certifi there is"
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    "${pip[@]}" certifi
    "$environment/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheels" "prefect==$version"
    "$environment/bin/python" - "$wheels"/prefect-*.whl >"$wheels/requirements.txt" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    for line in wheel.read(name).decode().split("\n\n", 1)[0].splitlines():
        if line.startswith("Requires-Dist:") and "extra ==" not in line and "certifi" not in line:
            print(line.removeprefix("Requires-Dist:").strip())
PYTHON
    "${pip[@]}" -r "$wheels/requirements.txt"
    "${pip[@]}" --no-deps "$wheels"/prefect-*.whl
  fi
  "$environment/bin/python" -c 'import prefect, sys; sys.stderr.write(f"prefect {prefect.__version__}\n")'
  # An empty database with every migration applied: a server that starts on a copy of it is ready 5 s sooner.
  env -i PATH="$PATH" HOME="$environment" PREFECT_HOME="$environment/template" \
    "$environment/bin/prefect" server database upgrade --yes
  touch "$environment/.complete"
} >&2
echo "$environment"
