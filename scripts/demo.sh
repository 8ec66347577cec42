#!/usr/bin/env bash
# Shows the whole of it on a real film with captions: a worker, full-frames with OCR, crop-frames, what was written against
# what was read, the lineage, contact sheets. Installs, builds and fetches what it needs first.
# Another film: npm run demo -- FILM
. "$(dirname "$0")/lib.sh"

film="${1:-}"
if [ -n "$film" ] && [ ! -f "$film" ]; then
  echo "error: there is no film $film" >&2
  echo "hint: give the path of a video file, or nothing for the demo's own film" >&2
  exit 1
fi

bash scripts/build.sh
# For the demo's own part: the database as the web app makes it, and contact sheets. The pipelines need neither.
need_packages sqlite3 ffmpeg
captions=()
if [ -z "$film" ]; then
  film=$(bash scripts/captioned-film.sh)
  captions=(scripts/captions.srt)
fi

# Node takes the place of this shell, so that Ctrl-C and SIGTERM reach the program that has a worker to stop.
exec node scripts/demo.mjs "$film" "${captions[@]}"
