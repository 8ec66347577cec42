"""Draws known captions over frames of real footage.

Usage: caption_frames.py CAPTIONS.json FOOTAGE_FOLDER OUTPUT_FOLDER FONT COUNT

FOOTAGE_FOLDER holds PNG files, one a caption. Writes OUTPUT_FOLDER/NNN.png and truth.json: a list of {"kind", "text",
"left", "top", "right", "bottom"}, the box in pixels around the drawn text. COUNT is how many of each kind. Sizes,
colours and positions change from frame to frame in a fixed order, so that every run makes the same pictures.
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


def main() -> None:
    captions, footage, output, font_path, count = sys.argv[1:]
    texts = json.loads(Path(captions).read_text("utf-8"))
    chosen = [(kind, text) for position in range(int(count)) for kind in texts for text in texts[kind][position : position + 1]]
    pictures = sorted(Path(footage).glob("*.png"))
    if len(pictures) < len(chosen):
        sys.exit(f"{len(pictures)} frames of footage for {len(chosen)} captions")
    truth = []
    for number, (kind, text) in enumerate(chosen):
        image = Image.open(pictures[number]).convert("RGB")
        draw = ImageDraw.Draw(image)
        # In a .ttc collection the Simplified Chinese face of Noto Sans CJK is number 2.
        font = ImageFont.truetype(font_path, SIZES[number % len(SIZES)], index=2)
        fill, outline = COLOURS[number % len(COLOURS)]
        centre = (image.width / 2, image.height * HEIGHTS[number % len(HEIGHTS)])
        style = {"font": font, "anchor": "mm", "stroke_width": 2}
        draw.text(centre, text, fill=fill, stroke_fill=outline, **style)
        left, top, right, bottom = draw.textbbox(centre, text, **style)
        image.save(Path(output) / f"{number:03}.png", compress_level=1)
        truth.append({"kind": kind, "text": text, "left": left, "top": top, "right": right, "bottom": bottom})
    (Path(output) / "truth.json").write_text(json.dumps(truth, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
