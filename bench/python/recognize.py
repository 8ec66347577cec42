"""Recognizes pictures one after the other and says what was read, where, and how long it took.

Usage: recognize.py equal|equal-1|installed FOLDER

FOLDER holds JPEG files. Prints one line of JSON: {"startSeconds", "frames": [{"name", "wallSeconds", "cpuSeconds",
"boxes": [{"text", "left", "top", "right", "bottom"}]}]}, boxes in the engine's own order, in pixels. `startSeconds`
is loading the engine and one picture to warm up. CPU seconds are of all threads.
"""

import json
import os
import sys
import time
from pathlib import Path


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rapidocr_reader(setting: str):
    from engines import rapidocr

    engine = rapidocr(setting)

    def read(file: Path) -> list[dict]:
        result = engine(str(file))
        boxes = []
        for corners, text in zip(result.boxes, result.txts, strict=True) if result.txts else []:
            xs, ys = [float(point[0]) for point in corners], [float(point[1]) for point in corners]
            boxes.append({"text": text, "left": min(xs), "top": min(ys), "right": max(xs), "bottom": max(ys)})
        return boxes

    return read


def main() -> None:
    engine, folder = sys.argv[1], Path(sys.argv[2])
    files = sorted(folder.glob("*.jpg"))
    started = time.perf_counter()
    read = rapidocr_reader(engine)
    read(files[0])
    start_seconds = time.perf_counter() - started
    frames = []
    for file in files:
        wall, cpu = time.perf_counter(), cpu_seconds()
        boxes = read(file)
        frames.append(
            {
                "name": file.stem,
                "wallSeconds": time.perf_counter() - wall,
                "cpuSeconds": cpu_seconds() - cpu,
                "boxes": boxes,
            }
        )
    print(json.dumps({"startSeconds": start_seconds, "frames": frames}))


if __name__ == "__main__":
    main()
