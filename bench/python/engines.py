"""RapidOCR in three settings.

`equal`: the models and the size that our pipeline uses (detection of PP-OCRv4 mobile with the longer side 960, recognition of
PP-OCRv6 small from the whole picture, ImageNet normalisation, no classifier of upside-down text); `equal-1` the same on one
thread. `installed`: as `pip install` leaves it.
"""

import os
from pathlib import Path

from rapidocr import ModelType, OCRVersion, RapidOCR


def rapidocr(setting: str) -> RapidOCR:
    """An engine; `CAPTIONACC_OCR_MODELS` names the folder with our models."""
    if setting == "installed":
        return RapidOCR(params={"Global.log_level": "error"})
    models = Path(os.environ["CAPTIONACC_OCR_MODELS"])
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1 if setting == "equal-1" else -1,
            "Det.ocr_version": OCRVersion.PPOCRV4,
            "Det.model_type": ModelType.MOBILE,
            "Det.model_path": str(models / "ch_PP-OCRv4_det_infer.onnx"),
            "Det.limit_type": "max",
            "Det.limit_side_len": 960,
            "Det.mean": [0.485, 0.456, 0.406],
            "Det.std": [0.229, 0.224, 0.225],
            "Rec.ocr_version": OCRVersion.PPOCRV6,
            "Rec.model_type": ModelType.SMALL,
            "Rec.model_path": str(models / "PP-OCRv6_rec_small.onnx"),
        }
    )
