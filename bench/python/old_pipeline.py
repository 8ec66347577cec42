"""The old way of both flows: the ffmpeg command to JPEG files, then PIL and sqlite3 into the tables.

A faithful small copy of what the orchestrator replaces, with the same JPEG quality (qscale 6) as ours, so that both
sides encode equally much. `fps` is the filter as the old pipeline used it.

Usage: old_pipeline.py full-frames|crop-frames --video FILE --db FILE --frames FOLDER --rate HZ
       [--crop LEFT,TOP,RIGHT,BOTTOM] [--ocr none|equal|installed]
"""

import argparse
import sqlite3
import subprocess
from pathlib import Path

from PIL import Image

INDEX_FRAME_RATE_HZ = 10
BATCH_ROWS = 20


def extract(video: Path, frames: Path, rate: float, crop: list[int] | None) -> list[Path]:
    """JPEG files of the sampled frames, in order."""
    frames.mkdir(parents=True, exist_ok=True)
    filters = [f"fps={rate}"]
    if crop:
        left, top, right, bottom = crop
        filters.append(f"crop={right - left}:{bottom - top}:{left}:{top}")
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(video), "-vf", ",".join(filters), "-q:v", "6"]
    subprocess.run([*command, str(frames / "frame_%010d.jpg")], check=True)
    return sorted(frames.glob("frame_*.jpg"))


def write_frames(db: sqlite3.Connection, files: list[Path], rate: float, crop: list[int] | None) -> None:
    """Reads every file again, its size through PIL, into the table."""
    table = "cropped_frames" if crop else "full_frames"
    db.execute(f"DELETE FROM {table}")
    for start in range(0, len(files), BATCH_ROWS):
        for position, file in enumerate(files[start : start + BATCH_ROWS], start):
            data = file.read_bytes()
            with Image.open(file) as image:
                width, height = image.size
            row = [round(position / rate * INDEX_FRAME_RATE_HZ), data, width, height, len(data)]
            if crop:
                columns = "frame_index, image_data, width, height, file_size, crop_left, crop_top, crop_right, crop_bottom"
                db.execute(f"INSERT INTO {table} ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", [*row, *crop])
            else:
                columns = "frame_index, image_data, width, height, file_size"
                db.execute(f"INSERT INTO {table} ({columns}) VALUES (?,?,?,?,?)", row)
        db.commit()


def write_boxes(db: sqlite3.Connection, files: list[Path], rate: float, setting: str) -> None:
    """Recognizes the text of every file, one after the other."""
    from engines import rapidocr

    engine = rapidocr(setting)
    db.execute("DELETE FROM full_frame_ocr")
    for position, file in enumerate(files):
        with Image.open(file) as image:
            width, height = image.size
        result = engine(str(file))
        found = zip(result.boxes, result.txts, result.scores, strict=True) if result.txts else []
        index = round(position / rate * INDEX_FRAME_RATE_HZ)
        for box_index, (corners, text, score) in enumerate(found):
            xs, ys = [point[0] for point in corners], [point[1] for point in corners]
            box = [min(xs) / width, 1 - max(ys) / height, (max(xs) - min(xs)) / width, (max(ys) - min(ys)) / height]
            db.execute(
                "INSERT INTO full_frame_ocr (frame_index, box_index, text, confidence, x, y, width, height) "
                "VALUES (?,?,?,?,?,?,?,?)",
                [index, box_index, text, float(score), *map(float, box)],
            )
        db.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flow", choices=["full-frames", "crop-frames"])
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--crop", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--ocr", choices=["none", "equal", "installed"], default="none")
    options = parser.parse_args()

    files = extract(options.video, options.frames, options.rate, options.crop)
    db = sqlite3.connect(options.db)
    write_frames(db, files, options.rate, options.crop)
    if options.ocr != "none":
        write_boxes(db, files, options.rate, options.ocr)
    db.close()


if __name__ == "__main__":
    main()
