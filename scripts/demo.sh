#!/usr/bin/env bash
# Shows the whole of it on a real film: a worker, full-frames with OCR, crop-frames, the lineage, contact sheets.
# Installs, builds and fetches what it needs first. Another film: npm run demo -- FILM
. "$(dirname "$0")/lib.sh"

film="${1:-}"
if [ -n "$film" ] && [ ! -f "$film" ]; then
  echo "error: there is no film $film" >&2
  echo "hint: give the path of a video file, or nothing for the demo's own film" >&2
  exit 1
fi

bash scripts/build.sh
# The contact sheets are made by the ffmpeg command; the pipelines themselves do not need it.
need_packages ffmpeg
if [ -z "$film" ]; then
  film="$(bash scripts/fetch-films.sh)/wannaworktogether.mp4"
fi

# Node takes the place of this shell, so that Ctrl-C and SIGTERM reach the program that has a worker to stop.
exec node scripts/demo.mjs "$film"
