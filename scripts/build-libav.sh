#!/usr/bin/env bash
# Builds a static, small libav (LGPL 2.1) from Debian's own ffmpeg source package into .cache/libav/<version>-<options>.
#
# Why static: the worker binary starts in about 1 ms instead of 40 ms and idles under 10 MB instead of 36 MB, because
# Debian's shared libavcodec pulls in 130 libraries. Only the decoders, demuxers and encoders that the pipelines open
# are compiled in, which is also the smallest attack surface for hostile video files.
#
# Prints the install prefix on stdout; everything else goes to stderr. A finished build is reused.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${CAPTIONACC_CACHE:-$PWD/.cache}"
mkdir -p "$cache"

options=(
  --disable-everything --disable-autodetect --disable-programs --disable-doc --disable-network --disable-debug
  --disable-avdevice --disable-avfilter --disable-swresample --disable-postproc
  --enable-pic --enable-pthreads --enable-static --disable-shared --enable-runtime-cpudetect
  --enable-zlib --enable-libdav1d
  --enable-protocol=file
  --enable-demuxer=mov,matroska,avi,mpegts,mpegps,mpegvideo,flv,ogg,asf,m4v,h264,hevc,ivf,obu
  --enable-decoder=h264,hevc,vp8,vp9,libdav1d,mpeg4,mpeg1video,mpeg2video,msmpeg4v1,msmpeg4v2,msmpeg4v3,mjpeg,h263,flv,vc1,wmv1,wmv2,wmv3,theora,prores,png,rawvideo,dvvideo,ffv1,huffyuv
  --enable-parser=h264,hevc,vp8,vp9,av1,mpeg4video,mpegvideo,mjpeg,h263,vc1,png
  --enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe_split,av1_frame_split
  --enable-encoder=mjpeg,png
)
digest=$(printf '%s\n' "${options[@]}" | sha256sum | cut -c1-12)
candidate=$(apt-cache policy libavcodec-dev | awk '/Candidate:/ {print $2}')
prefix="$cache/libav/${candidate//[^0-9a-zA-Z.+-]/_}-$digest"
mkdir -p "$cache/libav"
# Scripts that start side by side build it once.
exec 9>"$cache/libav.lock"
flock 9
if [ -f "$prefix/.complete" ]; then
  echo "$prefix"
  exit 0
fi

{
  work="$cache/libav/build"
  rm -rf "$work" "$prefix"
  mkdir -p "$work/lists/partial"
  # Debian's machines list binary packages only: ask the same archives for their sources, in lists of our own.
  sed -e 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/debian.sources" 2>/dev/null || true
  [ -f /etc/apt/sources.list ] && sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$work/debian.list"
  mkdir -p "$work/parts"
  [ -s "$work/debian.sources" ] && cp "$work/debian.sources" "$work/parts/"
  [ -s "$work/debian.list" ] && cp "$work/debian.list" "$work/parts/"
  apt=(apt-get -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/parts" -o "Dir::State::Lists=$work/lists"
    -o "APT::Sandbox::User=root")
  "${apt[@]}" -q update
  (cd "$work" && "${apt[@]}" -q source "ffmpeg=$candidate")
  source_dir=$(find "$work" -maxdepth 1 -type d -name 'ffmpeg-*' | head -n 1)
  (
    cd "$source_dir"
    ./configure --prefix="$prefix" "${options[@]}" || { tail -n 30 ffbuild/config.log; exit 1; }
    make -j"$(nproc)" >make.log 2>&1 || { tail -n 50 make.log; exit 1; }
    make install >install.log 2>&1 || { tail -n 50 install.log; exit 1; }
  )
  rm -rf "$work"
  touch "$prefix/.complete"
} >&2
echo "$prefix"
