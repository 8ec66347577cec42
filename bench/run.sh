#!/usr/bin/env bash
# Prepares what a benchmark needs and runs it: bench/run.sh NAME [--option NUMBER ...]. Each has an npm script.
#
#   queue      queuePrefectFlow against the Python program and a bare insert
#   latency    queue call to first instruction; memory and CPU of worker and child
#   pipelines  both flows against the old pipeline, ffmpeg alone and decoding alone
#   prefect    the Prefect orchestrator against bare calls and Prefect's own worker
#   million    a queue of a million runs against an empty one
#   sharing    runs side by side against runs one after the other
#   ocr        time and error rate by kind of caption against RapidOCR
#   dashboard  its pages over 100,000 runs against a bare endpoint; start, memory, CPU
#   median     the median of a caption's strips against numpy's
#   frames     what the web app waits for while a run's frames are swapped in
. "$(dirname "$0")/../scripts/lib.sh"

name="${1:-}"
case "$name" in
  queue | latency | pipelines | ocr | prefect | million | frames | dashboard | median | sharing) shift ;;
  *)
    echo "error: no benchmark ${name:-given}" >&2
    echo "hint: npm run bench:queue, bench:latency, bench:million, bench:frames, bench:dashboard, bench:pipelines, bench:ocr, bench:median, bench:sharing or bench:prefect" >&2
    exit 1
    ;;
esac

# CAPTIONACC_BENCH_NO_BUILD measures what is there, for whoever has just built it.
[ -n "${CAPTIONACC_BENCH_NO_BUILD:-}" ] || bash scripts/build.sh
need_node_modules

if [ "$name" = million ]; then
  # What is asked of the store has no command each: a program of ours asks.
  prepare_cargo
  samples=$(mktemp)
  trap 'rm -f "$samples"' EXIT
  cargo bench -q --locked --no-default-features --features worker,addon-dependencies --bench million -- "$@" >"$samples"
  node bench/million.mjs "$samples" "$@"
  exit
fi

# The Python sides live in an environment of their own, made anew when its requirements change. Prefect has another one.
if [ "$name" != prefect ] && [ "$name" != frames ] && [ "$name" != dashboard ]; then
  need_command python3 "install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
  digest=$(sha256sum bench/python/requirements.txt | cut -c1-12)
  environment="${CAPTIONACC_CACHE:-$PWD/.cache}/bench/python-$digest"
  if [ ! -f "$environment/.complete" ]; then
    say "installing the Python sides"
    rm -rf "$environment"
    python3 -m venv "$environment" >&2 || { need_packages python3-venv && python3 -m venv "$environment" >&2; }
    "$environment/bin/pip" install -q --disable-pip-version-check -r bench/python/requirements.txt >&2
    touch "$environment/.complete"
  fi
  export CAPTIONACC_BENCH_PYTHON="$environment/bin/python"
fi
export PYTHONDONTWRITEBYTECODE=1

case "$name" in
  queue | prefect)
    CAPTIONACC_BENCH_PREFECT="$(bash scripts/prefect-env.sh)/bin/python"
    export CAPTIONACC_BENCH_PREFECT
    [ "$name" = queue ] || need_packages postgresql util-linux
    exec bash scripts/with-prefect.sh node "bench/$name.mjs" "$@"
    ;;
  frames)
    # Features as those of the worker's build, so that every crate is there already.
    prepare_cargo
    cargo build --release --locked --no-default-features --features worker,addon-dependencies --example swap-frames >&2
    ;;
  pipelines | ocr | median | sharing)
    need_packages ffmpeg fonts-noto-cjk
    case "$name" in
      ocr) example=read-pictures ;;
      median) example=median ;;
      *) example= ;;
    esac
    if [ -n "$example" ]; then
      prepare_cargo
      cargo build --release --locked --no-default-features --features worker,addon-dependencies --example "$example" >&2
    fi
    CAPTIONACC_FILMS=$(bash scripts/fetch-films.sh)
    export CAPTIONACC_FILMS
    export CAPTIONACC_OCR_MODELS="$PWD/dist/models"
    ;;
esac
exec node "bench/$name.mjs" "$@"
