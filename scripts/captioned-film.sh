#!/usr/bin/env bash
# Makes the film that the demo and the example work on: Creative Commons' own, with the captions of scripts/captions.srt
# burnt in as subtitles look. Prints its path.
. "$(dirname "$0")/lib.sh"

folder="${CAPTIONACC_CACHE:-$PWD/.cache}/demo"
film="$folder/wannaworktogether, captioned.mp4"
need_packages ffmpeg fonts-noto-cjk
films=$(bash scripts/fetch-films.sh)
mkdir -p "$folder"
(
  flock 9
  if [ ! "$film" -nt scripts/captions.srt ] || [ ! "$film" -nt scripts/captioned-film.sh ]; then
    say "burning the captions into the film"
    # Sizes are on a screen 288 high, as subtitles without a format of their own are laid out.
    style='FontName=Noto Sans CJK SC,FontSize=26,Outline=2,Shadow=0,MarginV=18'
    ffmpeg -v error -y -i "$films/wannaworktogether.mp4" -vf "subtitles=scripts/captions.srt:force_style='$style'" \
      -c:v libx264 -preset ultrafast -crf 23 -c:a copy -f mp4 "$film.new" >&2
    mv "$film.new" "$film"
  fi
) 9>"$folder/.lock"
echo "$film"
