//! What can go wrong in OCR.

use std::error::Error;
use std::path::PathBuf;

/// The error of a closure that fetches a frame or takes its result.
pub type FrameError = Box<dyn Error + Send + Sync>;

/// The two models, as their packages name them (scripts/fetch-models.sh): text detection of PP-OCRv4 mobile, text recognition
/// of PP-OCRv6 small, which carries the characters that it knows.
pub(super) const FILE_NAMES: [&str; 2] = ["ch_PP-OCRv4_det_infer.onnx", "PP-OCRv6_rec_small.onnx"];

/// A failure of OCR.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OcrError {
    /// `OCR_MODELS_MISSING`: the model files are in none of the places they are looked for.
    #[error(
        "no OCR models found, looked in {places}: run \"npm install @captionacc/orchestrator-models\" (in a checkout: npm run build), \
         or set CAPTIONACC_OCR_MODELS to the folder that holds {files}",
        places = list(looked_in),
        files = FILE_NAMES.join(" and ")
    )]
    ModelsMissing {
        /// The folders that were searched, in order.
        looked_in: Vec<PathBuf>,
    },
    /// `OCR_MODEL_IO`: a model file is there but cannot be read.
    #[error("{path} cannot be read: give this user read access to it", path = path.display())]
    ModelIo {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `OCR_MODEL_INVALID`: a model file is not what its name says.
    #[error("{path} is not a usable OCR model ({problem}): install @captionacc/orchestrator-models again", path = path.display())]
    ModelInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// `OCR_INVALID_PICTURE`: a picture whose data does not fit its size.
    #[error("a picture of {width}x{height} RGB pixels has {bytes} bytes instead of 3 a pixel")]
    InvalidPicture {
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The length of its data.
        bytes: usize,
    },
    /// `OCR_INFERENCE`: the engine failed on a picture.
    #[error("the text {step} model failed on an input of {width}x{height}")]
    Inference {
        /// `detection` or `recognition`.
        step: &'static str,
        /// Width of the model's input.
        width: usize,
        /// Height of the model's input.
        height: usize,
        /// What the engine said.
        #[source]
        source: FrameError,
    },
    /// `OCR_FETCH`: a frame could not be fetched; `source` is the fetching closure's own error.
    #[error("frame {index} of {count} could not be fetched for OCR")]
    Fetch {
        /// The frame, from 0.
        index: usize,
        /// Frames in all.
        count: usize,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// `OCR_SINK`: a result could not be passed on; `source` is the receiving closure's own error.
    #[error("the text of frame {index} of {count} could not be stored")]
    Sink {
        /// The frame, from 0.
        index: usize,
        /// Frames in all.
        count: usize,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// `OCR_CANCELLED`: stopped because the caller asked for it.
    #[error("text recognition was cancelled")]
    Cancelled,
}

impl OcrError {
    /// A stable name of the kind of failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ModelsMissing { .. } => "OCR_MODELS_MISSING",
            Self::ModelIo { .. } => "OCR_MODEL_IO",
            Self::ModelInvalid { .. } => "OCR_MODEL_INVALID",
            Self::InvalidPicture { .. } => "OCR_INVALID_PICTURE",
            Self::Inference { .. } => "OCR_INFERENCE",
            Self::Fetch { .. } => "OCR_FETCH",
            Self::Sink { .. } => "OCR_SINK",
            Self::Cancelled => "OCR_CANCELLED",
        }
    }

    /// Whether trying again cannot help as long as the user changes nothing.
    ///
    /// `false` for [`OcrError::Fetch`] and [`OcrError::Sink`]: whoever gave the closures can look at their `source`.
    pub const fn is_input_fault(&self) -> bool {
        matches!(
            self,
            Self::ModelsMissing { .. } | Self::ModelInvalid { .. } | Self::InvalidPicture { .. }
        )
    }
}

/// `a, b and c`, or a word for nothing.
fn list(folders: &[PathBuf]) -> String {
    let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    match names.as_slice() {
        [] => "no folder".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
