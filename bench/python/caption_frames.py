"""Draws known captions of many kinds over frames of real footage.

Usage: caption_frames.py CAPTIONS.json KINDS.json FOOTAGE_FOLDER OUTPUT_FOLDER FONT COUNT

FOOTAGE_FOLDER holds pictures, one a caption. Writes OUTPUT_FOLDER/NNN.png and truth.json: a list of {"kind", "text", "angle",
"left", "top", "right", "bottom"}: `angle` is the direction in which the text runs, in degrees clockwise from the right; the
box, in pixels, stands around the drawn text; lines are parted by a line feed. COUNT is how many there are of each of the three
great kinds (simplified Chinese, Latin, mixed), and a third of it of each of the others. Sizes, colours and positions change
from frame to frame in a fixed order, so that every run makes the same pictures.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Heights of the type in pixels of a 1080p frame: from small captions to large ones.
SIZES = [28, 36, 44, 52, 64]
COLOURS = [("white", "black"), ("yellow", "black"), ("white", "navy")]
# Centre of the line, as a part of the frame's height: mostly at the bottom, as captions are.
HEIGHTS = [0.90, 0.86, 0.92, 0.10]
# What is measured by itself.
SMALL_TO_LARGE = [13, 18, 24, 36, 64]
TURNS = [90, 180, 270]


def wanted(texts: dict[str, list[str]], more: dict[str, list[str]], count: int) -> list[dict]:
    """What is to be drawn, frame by frame."""
    third = max(1, count // 3)
    both = [text for pair in zip(texts["chinese"], texts["latin"], strict=True) for text in pair]
    frames = [
        {"kind": kind, "text": text}
        for position in range(count)
        for kind, text in (
            ("simplified", texts["chinese"][position]),
            ("Latin", texts["latin"][position]),
            ("mixed", texts["mixed"][position]),
        )
    ]
    for name, key in (("traditional", "traditional"), ("accented Latin", "accented"), ("full-width punctuation", "punctuation")):
        frames += [{"kind": name, "text": text} for text in more[key][:third]]
    for size in SMALL_TO_LARGE:
        frames += [{"kind": f"{size} px", "text": text, "size": size} for text in both[:third]]
    frames += [{"kind": "30 % opacity", "text": text, "opacity": 0.3} for text in both[:third]]
    frames += [{"kind": "white on white", "text": text, "panel": "white", "colours": ("white", "black")} for text in both[:third]]
    pairs = [f"{texts[kind][2 * n]}\n{texts[kind][2 * n + 1]}" for n in range(third) for kind in ("chinese", "latin")]
    frames += [{"kind": "two lines", "text": text} for text in pairs[:third]]
    frames += [{"kind": "slanted", "text": text, "angle": (-8, 6, -4)[n % 3]} for n, text in enumerate(both[:third])]
    frames += [{"kind": "turned", "text": text, "angle": TURNS[n // 2 % 3]} for n, text in enumerate(both[:third])]
    return frames


def draw(image: Image.Image, frame: dict, number: int, font_path: str) -> dict:
    """Draws one caption; gives where."""
    # In a .ttc collection the Simplified Chinese face of Noto Sans CJK is number 2, the Traditional one number 3.
    face = 3 if frame["kind"] == "traditional" else 2
    angle = frame.get("angle", 0)
    size = frame.get("size", SIZES[number % len(SIZES)])
    is_tall = angle % 180 == 90
    font = ImageFont.truetype(font_path, min(size, 36) if is_tall else size, index=face)
    fill, outline = frame.get("colours", COLOURS[number % len(COLOURS)])
    style = {"font": font, "anchor": "mm", "stroke_width": 1 if size < 20 else 2, "align": "center"}
    layer = Image.new("RGBA", (image.width, image.width), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    middle = layer.width / 2
    box = pen.textbbox((middle, middle), frame["text"], **style)
    if "panel" in frame:
        pen.rectangle((box[0] - 30, box[1] - 20, box[2] + 30, box[3] + 20), fill=frame["panel"])
    pen.text((middle, middle), frame["text"], fill=fill, stroke_fill=outline, **style)
    # Pillow turns counter-clockwise.
    layer = layer.rotate(-angle, resample=Image.Resampling.BICUBIC if angle % 90 else Image.Resampling.NEAREST)
    mask = layer.getchannel("A").point(lambda alpha: round(alpha * frame.get("opacity", 1)))
    height = 0.5 if angle else HEIGHTS[number % len(HEIGHTS)]
    top = round(image.height * height - middle)
    image.paste(layer.convert("RGB"), (0, top), mask)
    if angle:
        left, upper, right, lower = layer.getchannel("A").getbbox()
    else:
        left, upper, right, lower = box
    return {"kind": frame["kind"], "text": frame["text"], "angle": angle, "left": left, "top": upper + top, "right": right, "bottom": lower + top}


def main() -> None:
    captions, kinds, footage, output, font_path, count = sys.argv[1:]
    texts, more = (json.loads(Path(path).read_text("utf-8")) for path in (captions, kinds))
    frames = wanted(texts, more, int(count))
    pictures = sorted(Path(footage).iterdir())
    if len(pictures) < len(frames):
        sys.exit(f"{len(pictures)} frames of footage for {len(frames)} captions")
    truth = []
    for number, frame in enumerate(frames):
        image = Image.open(pictures[number]).convert("RGB")
        truth.append(draw(image, frame, number, font_path))
        image.save(Path(output) / f"{number:03}.png", compress_level=1)
    (Path(output) / "truth.json").write_text(json.dumps(truth, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
