#!/usr/bin/env bash
# Where the time of a build from scratch goes: `npm run demo` as a whole, in a fresh clone of what is committed; each of its
# steps by itself, one after the other, in another one; a build after the change of one line; the crates that take longest. Packages of the registries may lie in their clients' caches; nothing else is there before.
# Writes bench/results/build.md.
. "$(dirname "$0")/../scripts/lib.sh"

here=$PWD
results="$here/bench/results/build.md"
work=$(mktemp -d "$here/../captionacc-build-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p bench/results
unset CAPTIONACC_CACHE CAPTIONACC_NO_BUILD CARGO_TARGET_DIR
export TIMEFORMAT='%R %U %S'

# Wall, and user + system, in seconds, of a command in the current folder.
measure() {
  local name=$1 wall user system
  shift
  { time "$@" >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; echo "error: $name failed" >&2; exit 1; }; } 2>"$work/time"
  read -r wall user system < <(tail -n 1 "$work/time")
  awk -v name="$name" -v wall="$wall" -v cpu="$user + $system" \
    'BEGIN { split(cpu, part, " [+] "); printf "| %s | %.1f s | %.1f s |\n", name, wall, part[1] + part[2] }' | tee -a "$results"
}
in_scripts() { bash -c ". scripts/lib.sh; prepare_linker; $1"; }
addon='cargo rustc --release --locked --timings --lib --crate-type cdylib --features addon,worker-dependencies'
worker='FFMPEG_DIR=$(bash scripts/build-libav.sh) cargo build --release --locked --no-default-features --features worker,addon-dependencies --bin captionacc'

git clone -q "$here" "$work/whole"
cd "$work/whole"
{
  echo "Commit $(git rev-parse --short HEAD), $(date -u +%Y-%m-%d), $(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), load $(cut -d' ' -f1 /proc/loadavg) at the start."
  printf '\n| as a whole | wall | CPU |\n| --- | --- | --- |\n'
} | tee "$results"
measure '`npm run demo`' npm run demo

git clone -q "$here" "$work/steps"
cd "$work/steps"
printf '\n| step | wall | CPU |\n| --- | --- | --- |\n' | tee -a "$results"
measure 'Debian packages that lack' bash -c '. scripts/lib.sh; need_build_packages; need_packages sqlite3 ffmpeg fonts-noto-cjk'
measure 'zig, the linker' bash scripts/zig.sh
measure 'libav, dav1d, zlib' bash scripts/build-libav.sh
measure 'OCR models' bash scripts/fetch-models.sh
measure 'pages of the dashboard' bash scripts/build-dashboard.sh
measure 'addon, with every crate but the bindings of libav' in_scripts "$addon"
cp target/cargo-timings/cargo-timing.html "$work/timings.html"
measure 'worker, with those bindings' in_scripts "$worker"
measure 'into place (nothing left to compile)' bash scripts/build.sh
measure 'film and its captions' bash scripts/captioned-film.sh
measure 'the demo itself' node scripts/demo.mjs "$PWD/.cache/demo/wannaworktogether, captioned.mp4" scripts/captions.srt
echo '// A line.' >>src/state.rs
measure 'after the change of one line in src/: both builds' bash scripts/build.sh

printf '\n| crate (addon build) | s |\n| --- | --- |\n' | tee -a "$results"
node --eval '
  const [, units] = /const UNIT_DATA = (\[.*?\]);/s.exec(require("fs").readFileSync(process.argv[1], "utf8"));
  for (const { name, target, duration } of JSON.parse(units).sort((a, b) => b.duration - a.duration).slice(0, 12))
    console.log(`| ${name}${target.trim() ? ` (${target.trim()})` : ""} | ${duration.toFixed(1)} |`);' "$work/timings.html" | tee -a "$results"
