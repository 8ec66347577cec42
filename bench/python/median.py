"""The median of the JPEG files of a folder as the app's Python had it, and how long it took.

Usage: median.py FOLDER WIDTH HEIGHT

Decodes FOLDER/*.jpg with PIL and takes numpy's median over them. Decoders differ by a level here and there, so that what
is compared is the median of the pixels in FOLDER/decoded.rgb with FOLDER/median.rgb, which another program has left there.
Prints one line of JSON: {"decodingSeconds", "medianSeconds", "different"}, the last one being the number of values that differ.
"""

import json
import sys
import time
from pathlib import Path

import numpy
from PIL import Image


def main() -> None:
    folder, width, height = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    before = time.perf_counter()
    pictures = [numpy.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.jpg"))]
    decoding = time.perf_counter() - before
    before = time.perf_counter()
    numpy.median(numpy.stack(pictures), axis=0).astype(numpy.uint8)
    median = time.perf_counter() - before
    decoded = numpy.fromfile(folder / "decoded.rgb", dtype=numpy.uint8).reshape(-1, height, width, 3)
    expected = numpy.median(decoded, axis=0).astype(numpy.uint8)
    found = numpy.fromfile(folder / "median.rgb", dtype=numpy.uint8).reshape(height, width, 3)
    different = int((expected != found).sum())
    print(json.dumps({"decodingSeconds": decoding, "medianSeconds": median, "different": different}))


main()
