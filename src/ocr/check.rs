//! What `captionacc doctor` says of OCR.

use std::path::Path;

use super::models::OcrModels;
use super::pp_ocr::PpOcr;
use super::recognizer::Recognizer;
use crate::domain::finding::Findings;

/// Whether the models are there and can be loaded; `explicit` as for [`OcrModels::find`].
pub fn check(explicit: Option<&Path>) -> Findings {
    let mut findings = Findings::default();
    let engine = OcrModels::find(explicit).and_then(|models| PpOcr::load(&models).map(|engine| (models, engine)));
    match engine {
        Ok((models, engine)) => {
            let folder = models.detection.parent().unwrap_or(Path::new("")).display().to_string();
            findings.ok("ocr", format!("{}, models in {folder}", engine.description()));
        }
        Err(error) => findings.error(
            "ocr",
            format!("{error} ({})", error.code()),
            "npm install @captionacc/orchestrator-models (in a checkout: npm run build), or set CAPTIONACC_OCR_MODELS to a folder with the models",
        ),
    }
    findings
}
