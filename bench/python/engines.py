"""RapidOCR in two settings.

`equal`: the models and the size that our pipeline uses (PP-OCRv4 mobile, longer side 960 for detection, recognition
from the whole picture, ImageNet normalisation, no classifier of upside-down text). `installed`: as `pip install`
leaves it.
"""

import os
from pathlib import Path

from rapidocr import ModelType, OCRVersion, RapidOCR


def rapidocr(setting: str) -> RapidOCR:
    """An engine; `CAPTIONACC_OCR_MODELS` names the folder with the v4 models."""
    if setting == "installed":
        return RapidOCR(params={"Global.log_level": "error"})
    models = Path(os.environ["CAPTIONACC_OCR_MODELS"])
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "Det.ocr_version": OCRVersion.PPOCRV4,
            "Det.model_type": ModelType.MOBILE,
            "Det.model_path": str(models / "ch_PP-OCRv4_det_infer.onnx"),
            "Det.limit_type": "max",
            "Det.limit_side_len": 960,
            "Det.mean": [0.485, 0.456, 0.406],
            "Det.std": [0.229, 0.224, 0.225],
            "Rec.ocr_version": OCRVersion.PPOCRV4,
            "Rec.model_type": ModelType.MOBILE,
            "Rec.model_path": str(models / "ch_PP-OCRv4_rec_infer.onnx"),
            "Rec.rec_keys_path": str(models / "ppocr_keys_v1.txt"),
        }
    )
