#!/usr/bin/env bash
# Builds a static, small libav (LGPL 2.1) with the two libraries that it needs, zlib and dav1d (AV1), from Debian's own source
# packages into .cache/libav/<version>-<digest of what is built and how>:
#
#   scripts/build-libav.sh                  for this machine
#   scripts/build-libav.sh linux-arm64-gnu  for another one, with zig as the compiler
#
# Why static: the worker binary starts in about 1 ms instead of 40 ms and idles under 10 MB instead of 36 MB, because
# Debian's shared libavcodec pulls in 130 libraries; and it runs where nothing but libc is installed. Only the decoders, demuxers
# and encoders that the pipelines open are compiled in, which is also the smallest attack surface for hostile video files.
#
# Prints the install prefix on stdout; everything else goes to stderr. A finished build is reused.
. "$(dirname "$0")/lib.sh"

platform="${1:-}"
cache="${CAPTIONACC_CACHE:-$PWD/.cache}"
mkdir -p "$cache/libav"

options=(
  --disable-everything --disable-autodetect --disable-programs --disable-doc --disable-network --disable-debug
  --disable-avdevice --disable-avfilter --disable-swresample --disable-postproc
  --enable-pic --enable-pthreads --enable-static --disable-shared --enable-runtime-cpudetect
  --enable-zlib --enable-libdav1d
  --enable-protocol=file
  --enable-demuxer=mov,matroska,avi,mpegts,mpegps,mpegvideo,flv,ogg,asf,m4v,h264,hevc,ivf,obu
  # What phones, cameras, browsers and streams make; then what editors, screen recorders and old AVI and QuickTime files hold.
  --enable-decoder=h264,hevc,vp8,vp9,libdav1d,mpeg4,mpeg1video,mpeg2video,msmpeg4v1,msmpeg4v2,msmpeg4v3,mjpeg,h263,h263p,flv,vc1,wmv1,wmv2,wmv3,theora
  --enable-decoder=prores,dnxhd,cfhd,v210,dvvideo,ffv1,huffyuv,ffvhuff,utvideo,lagarith,magicyuv,png,rawvideo
  --enable-decoder=flashsv,flashsv2,zmbv,cscd,tscc,mss1,mss2,qtrle
  --enable-decoder=cinepak,svq1,svq3,indeo3,indeo4,indeo5,msvideo1,msrle,rpza,smc,vp6,vp6a,vp6f
  --enable-parser=h264,hevc,vp8,vp9,av1,mpeg4video,mpegvideo,mjpeg,h263,vc1,png,dnxhd,vp3
  --enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe_split,av1_frame_split
  --enable-encoder=mjpeg,png
)
# For this machine the system's compiler: its objects are linked against an old libc as well as zig's are.
compilers=(CC=cc AR=ar RANLIB=ranlib)
meson=meson meson_options=()
zlib_environment=()
if [ -n "$platform" ]; then
  [ "$platform" = linux-arm64-gnu ] || { echo "error: there is no recipe for $platform" >&2; exit 1; }
  CAPTIONACC_ZIG=$(bash scripts/zig.sh)
  export CAPTIONACC_ZIG
  compilers=(CC="$PWD/scripts/zig-aarch64-cc.sh" AR="$PWD/scripts/zig-ar.sh" RANLIB="$PWD/scripts/zig-ranlib.sh")
  options+=(--enable-cross-compile --target-os=linux --arch=aarch64 "--cc=$PWD/scripts/zig-aarch64-cc.sh"
    "--ar=$PWD/scripts/zig-ar.sh" "--ranlib=$PWD/scripts/zig-ranlib.sh" --pkg-config=pkg-config)
  # Debian's is too old to know zig.
  meson="$CAPTIONACC_ZIG/bin/meson"
  meson_options=(--cross-file "$PWD/scripts/aarch64.ini")
  zlib_environment=(CHOST=aarch64-linux-gnu)
fi

version_of() { apt-cache policy "$1" | awk '/Candidate:/ {print $2}'; }
ffmpeg=$(version_of libavcodec-dev)
dav1d=$(version_of libdav1d-dev)
zlib=$(version_of zlib1g-dev)
digest=$(printf '%s\n' "$platform" "$dav1d" "$zlib" "${options[@]//$PWD/}" | sha256sum | cut -c1-12)
prefix="$cache/libav/${ffmpeg//[^0-9a-zA-Z.+-]/_}-$digest"
# Scripts that start side by side build it once.
exec 9>"$cache/libav.lock"
flock 9
if [ -f "$prefix/.complete" ]; then
  echo "$prefix"
  exit 0
fi

# What a step says is of interest only if it fails.
quietly() { "$@" >step.log 2>&1 || { tail -n 50 step.log; return 1; }; }

build_zlib() {
  cd "$work"/zlib-*/
  quietly env "${compilers[@]}" "${zlib_environment[@]}" CFLAGS="-O3 -fPIC" ./configure --static --prefix="$prefix"
  quietly make -j"$(nproc)" libz.a
  quietly make install
  mkdir -p "$prefix/licences"
  # Its licence is a part of its README.
  cp README "$prefix/licences/zlib-README.txt"
}

build_dav1d() {
  cd "$work"/dav1d-*/
  quietly env "${compilers[@]}" "$meson" setup build "${meson_options[@]}" --prefix="$prefix" --libdir=lib --buildtype=release \
    --default-library=static -Db_staticpic=true -Denable_tools=false -Denable_tests=false
  quietly ninja -C build install
  cp COPYING "$prefix/licences/dav1d-COPYING.txt"
}

build_ffmpeg() {
  cd "$work"/ffmpeg-*/
  local scripts=$OLDPWD/scripts
  export PKG_CONFIG_LIBDIR="$prefix/lib/pkgconfig"
  local configure=(./configure --prefix="$prefix" --pkg-config=pkg-config --pkg-config-flags=--static
    --extra-cflags="-I$prefix/include" --extra-ldflags="-L$prefix/lib" "${options[@]}")
  quietly "${configure[@]}" || { tail -n 30 ffbuild/config.log; return 1; }
  # glibc had the function until 2.31 and took its header away; it is of no use on Linux.
  sed -i 's/^#define HAVE_SYSCTL 1/#define HAVE_SYSCTL 0/' config.h
  quietly make -j"$(nproc)"
  quietly make install
  cp COPYING.LGPLv2.1 "$prefix/licences/FFmpeg-COPYING.LGPLv2.1.txt"
  # The prefix is of no meaning elsewhere.
  configure=("${configure[@]//$prefix/PREFIX}")
  printf '%s ' "${configure[@]//$scripts/SCRIPTS}" >"$prefix/licences/FFmpeg-configure.txt"
}

{
  need_packages build-essential pkg-config nasm dpkg-dev meson ninja-build
  say "building libav $ffmpeg, dav1d $dav1d, zlib $zlib${platform:+ for $platform}"
  work="$cache/libav/build"
  rm -rf "$work" "$prefix"
  mkdir -p "$work"
  fetch_debian_sources "$work" "ffmpeg=$ffmpeg" "dav1d=$dav1d" "zlib=$zlib"
  (build_zlib)
  (build_dav1d)
  (build_ffmpeg)
  # For `captionacc --version --verbose`, and for whoever ships the result.
  printf '%s\n' "ffmpeg $ffmpeg" "dav1d $dav1d" "zlib $zlib" >"$prefix/versions"
  rm -rf "$work"
  touch "$prefix/.complete"
} >&2
echo "$prefix"
