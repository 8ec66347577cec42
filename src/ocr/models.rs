//! Where the model files are.

use std::path::{Path, PathBuf};

use super::error::{FILE_NAMES, OcrError};

/// The model files of an OCR engine; both existed when this was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcrModels {
    /// Text detection, ONNX.
    pub detection: PathBuf,
    /// Text recognition, ONNX, with the characters that it knows in its metadata.
    pub recognition: PathBuf,
}

impl OcrModels {
    /// The models in the folder `explicit` (the `CAPTIONACC_OCR_MODELS` setting), and nowhere else if one is given.
    ///
    /// Without it, the first folder that has both files, from the running executable's folder upwards:
    /// `models`, then `dist/models`, then `node_modules/@captionacc/orchestrator-models`. That finds them next to a binary
    /// that was copied by hand, in a checkout, and in an installation, wherever npm or pnpm put the package.
    ///
    /// # Errors
    /// [`OcrError::ModelsMissing`], which names every place.
    pub fn find(explicit: Option<&Path>) -> Result<Self, OcrError> {
        if let Some(folder) = explicit {
            return Self::first_of([folder.to_owned()]);
        }
        // Through links: a package manager may link the binary into a `.bin` folder or from a store.
        let executable = std::env::current_exe()
            .and_then(std::fs::canonicalize)
            .unwrap_or_default();
        Self::first_of(places_above(&executable))
    }

    fn first_of(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, OcrError> {
        let mut looked_in = Vec::new();
        for folder in folders {
            let [detection, recognition] = FILE_NAMES.map(|name| folder.join(name));
            if detection.is_file() && recognition.is_file() {
                return Ok(Self { detection, recognition });
            }
            looked_in.push(folder);
        }
        Err(OcrError::ModelsMissing { looked_in })
    }
}

/// The folders that may hold models for the program at `executable`, nearest first.
fn places_above(executable: &Path) -> impl Iterator<Item = PathBuf> {
    executable
        .ancestors()
        .skip(1)
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(|folder| {
            [
                folder.join("models"),
                folder.join("dist").join("models"),
                folder
                    .join("node_modules")
                    .join("@captionacc")
                    .join("orchestrator-models"),
            ]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_is_looked_in_first() {
        let places: Vec<_> = places_above(Path::new("/app/bin/captionacc")).collect();
        let expected = [
            "/app/bin/models",
            "/app/bin/dist/models",
            "/app/bin/node_modules/@captionacc/orchestrator-models",
            "/app/models",
            "/app/dist/models",
            "/app/node_modules/@captionacc/orchestrator-models",
            "/models",
            "/dist/models",
            "/node_modules/@captionacc/orchestrator-models",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
    }

    #[test]
    fn an_unknown_executable_has_no_places() {
        assert_eq!(places_above(Path::new("")).count(), 0);
    }
}
