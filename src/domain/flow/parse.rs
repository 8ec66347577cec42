//! Parsing: what a caller gave becomes typed arguments, or an error that names the argument.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::arguments::{
    Arguments, CaptionMedianOcr, CommandArguments, CropBounds, CropFrames, FullFrames, OnDamage, VideoFiles,
};
use super::definition::{FlowDefinition, ParameterDefinition, ParameterKind, Runner};
use super::parameters::{CAPTION_IDS, Parameters};
use crate::domain::error::{OrchestratorError, did_you_mean};

/// Longest text that an argument may have, in bytes: a longer one is a mistake or an attack.
const MAX_ARGUMENT_BYTES: usize = 32 * 1024;
/// Most captions of one run.
const MAX_CAPTIONS: usize = 10_000;
/// Largest id of a caption: what JavaScript can tell from its neighbours.
const MAX_CAPTION_ID: i64 = (1 << 53) - 1;

impl FlowDefinition {
    /// Checks and completes what a caller gave.
    ///
    /// Values may be text or, where they are numbers or bounds, JSON numbers or objects; `null` counts as absent.
    /// Paths become absolute against `working_directory`. Nothing outside the arguments is looked at: whether the
    /// files exist is found out where the work is done.
    ///
    /// # Errors
    /// [`OrchestratorError::InvalidArgument`], naming the argument.
    pub fn parse_arguments(
        &self,
        given: &Map<String, Value>,
        working_directory: &Path,
    ) -> Result<Arguments, OrchestratorError> {
        for name in given.keys() {
            if !self.parameters.iter().any(|parameter| parameter.name == *name) {
                let names: Vec<&str> = self
                    .parameters
                    .iter()
                    .map(|parameter| parameter.name.as_str())
                    .collect();
                return Err(invalid(
                    name,
                    format!(
                        "unknown argument of flow {:?}{} (it takes {})",
                        self.name,
                        did_you_mean(name, names.iter().copied()),
                        names.join(", ")
                    ),
                ));
            }
        }
        let mut arguments = Map::new();
        for parameter in &self.parameters {
            let value = match given.get(&parameter.name) {
                None | Some(Value::Null) => match &parameter.default {
                    Some(default) => default.clone(),
                    None => {
                        return Err(invalid(
                            &parameter.name,
                            format!("missing: flow {:?} needs it ({})", self.name, parameter.description),
                        ));
                    }
                },
                // A default is taken as it is: it need not be of the form that a caller's value gets, and is stored so.
                Some(value) if parameter.default.as_ref() == Some(value) => value.clone(),
                Some(value) => parameter.parse(value, working_directory)?,
            };
            arguments.insert(parameter.name.clone(), value);
        }
        typed(&self.runner, arguments)
    }

    /// What a store or a server has of a run, which no working directory applies to.
    ///
    /// # Errors
    /// As [`FlowDefinition::parse_arguments`].
    pub fn parse_stored(&self, parameters: &Map<String, Value>) -> Result<Arguments, OrchestratorError> {
        for parameter in &self.parameters {
            let given = parameters.get(&parameter.name);
            if parameter.kind == ParameterKind::Path
                && given != parameter.default.as_ref()
                && let Some(Value::String(path)) = given
                && Path::new(path).is_relative()
            {
                return Err(invalid(
                    &parameter.name,
                    format!(
                        "{path:?} is a relative path, and whoever queued the run has no working directory here: give it from /"
                    ),
                ));
            }
        }
        self.parse_arguments(parameters, Path::new("/"))
    }
}

/// Checked values as the arguments of this runner.
fn typed(runner: &Runner, values: Map<String, Value>) -> Result<Arguments, OrchestratorError> {
    let checked = Checked(values);
    match runner {
        Runner::FullFrames => Ok(Arguments::FullFrames(FullFrames {
            files: checked.files()?,
            frame_rate_hz: checked.of("frame-rate")?,
            on_damage: checked.of("on-damage")?,
        })),
        Runner::CropFrames => Ok(Arguments::CropFrames(CropFrames {
            files: checked.files()?,
            crop_bounds: checked.of("crop-bounds")?,
            crop_bounds_version: checked.of("crop-bounds-version")?,
            frame_rate_hz: checked.of("frame-rate")?,
            on_damage: checked.of("on-damage")?,
        })),
        Runner::CaptionMedianOcr => Ok(Arguments::CaptionMedianOcr(CaptionMedianOcr {
            video_id: checked.of("video-id")?,
            db_path: checked.of("db-path")?,
            video_dir: checked.of("video-dir")?,
            caption_ids: checked.of(CAPTION_IDS)?,
            language: checked.of("language")?,
        })),
        Runner::Command(_) => Ok(Arguments::Command(CommandArguments {
            video_id: checked.of("video-id").ok(),
            db_path: checked.of::<PathBuf>("db-path").ok().filter(|path| path.is_absolute()),
            output_dir: checked
                .of::<PathBuf>("output-dir")
                .ok()
                .filter(|path| path.is_absolute()),
            values: Parameters(checked.0),
        })),
    }
}

/// Values by parameter name, each of its parameter's form.
struct Checked(Map<String, Value>);

impl Checked {
    fn of<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, OrchestratorError> {
        let value = self.0.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| invalid(name, error.to_string()))
    }

    fn files(&self) -> Result<VideoFiles, OrchestratorError> {
        Ok(VideoFiles {
            video_id: self.of("video-id")?,
            video_path: self.of("video-path")?,
            db_path: self.of("db-path")?,
            output_dir: self.of("output-dir")?,
        })
    }
}

impl ParameterDefinition {
    /// The value in this parameter's form; a path against `working_directory`.
    ///
    /// # Errors
    /// [`OrchestratorError::InvalidArgument`], naming the parameter.
    pub fn parse(&self, value: &Value, working_directory: &Path) -> Result<Value, OrchestratorError> {
        let name = &self.name;
        match self.kind {
            ParameterKind::Text => Ok(json!(text(name, value)?)),
            ParameterKind::Path => {
                let path = local_path(name, text(name, value)?, working_directory)?;
                Ok(json!(path))
            }
            ParameterKind::Number => Ok(json!(number(name, value)?)),
            ParameterKind::FrameRate => {
                let rate = number(name, value)?;
                if rate <= 0.0 {
                    return Err(invalid(
                        name,
                        format!("{rate} is not a frame rate: give a number of Hz above 0"),
                    ));
                }
                Ok(json!(rate))
            }
            ParameterKind::PositiveInteger => {
                let number = number(name, value)?;
                if number.fract() != 0.0 || !(1.0..=f64::from(i32::MAX)).contains(&number) {
                    return Err(invalid(
                        name,
                        format!("{number} is not a whole number from 1 to {}", i32::MAX),
                    ));
                }
                #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number in range")]
                Ok(json!(number as i64))
            }
            ParameterKind::CropBounds => crop_bounds(name, value).map(|bounds| json!(bounds)),
            ParameterKind::OnDamage => match serde_json::from_value::<OnDamage>(value.clone()) {
                Ok(on_damage) => Ok(json!(on_damage)),
                Err(_) => Err(invalid(name, format!("{} is not keep or fail", shown(value)))),
            },
            ParameterKind::CaptionIds => caption_ids(name, value).map(|ids| json!(ids)),
        }
    }
}

fn invalid(argument: &str, problem: impl Into<String>) -> OrchestratorError {
    OrchestratorError::InvalidArgument {
        argument: argument.to_owned(),
        problem: problem.into(),
    }
}

/// A value for an error message: JSON, shortened.
fn shown(value: &Value) -> String {
    let mut text: String = value.to_string().chars().take(80).collect();
    if text.len() < value.to_string().len() {
        text.push('…');
    }
    text
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, OrchestratorError> {
    let Value::String(text) = value else {
        return Err(invalid(name, format!("{} is not text", shown(value))));
    };
    if text.trim().is_empty() {
        return Err(invalid(name, "empty: give a value"));
    }
    if text.contains('\0') {
        return Err(invalid(name, "contains a NUL character"));
    }
    if text.len() > MAX_ARGUMENT_BYTES {
        return Err(invalid(name, format!("longer than {MAX_ARGUMENT_BYTES} bytes")));
    }
    Ok(text)
}

fn number(name: &str, value: &Value) -> Result<f64, OrchestratorError> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(invalid(name, format!("{} is not a finite number", shown(value)))),
    }
}

/// Makes `text` absolute. An address (`http:`, `concat:`) is refused: only local files are opened.
fn local_path(name: &str, text: &str, working_directory: &Path) -> Result<String, OrchestratorError> {
    let scheme_end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
        .unwrap_or(0);
    if scheme_end > 0 && text[scheme_end..].starts_with(':') {
        return Err(invalid(
            name,
            format!(
                "{text:?} is an address, not a local path: only local files are opened (a file named so is \"./{text}\")"
            ),
        ));
    }
    let path = working_directory.join(text);
    let path = std::path::absolute(&path).map_err(|error| invalid(name, format!("{text:?}: {error}")))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| invalid(name, "the working directory's path is not UTF-8: give an absolute path"))
}

fn crop_bounds(name: &str, value: &Value) -> Result<CropBounds, OrchestratorError> {
    const FORM: &str = r#"give {"left":…,"top":…,"right":…,"bottom":…} in whole pixels from 0"#;
    let parsed;
    let object = match value {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|error| invalid(name, format!("{} is not JSON ({error}): {FORM}", shown(value))))?;
            &parsed
        }
        other => other,
    };
    let bounds: CropBounds = serde_json::from_value(whole_numbers(object))
        .map_err(|error| invalid(name, format!("{} ({error}): {FORM}", shown(object))))?;
    if bounds.left >= bounds.right || bounds.top >= bounds.bottom {
        return Err(invalid(
            name,
            format!(
                "{} has no area: left must be below right, and top below bottom",
                shown(object)
            ),
        ));
    }
    Ok(bounds)
}

/// Ids of captions, each once, in the order given.
fn caption_ids(name: &str, value: &Value) -> Result<Vec<i64>, OrchestratorError> {
    const FORM: &str = "give a list of captions' ids, as in [1, 2]";
    let parsed;
    let list = match value {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|error| invalid(name, format!("{} is not JSON ({error}): {FORM}", shown(value))))?;
            &parsed
        }
        other => other,
    };
    let list = list
        .as_array()
        .ok_or_else(|| invalid(name, format!("{} is no list: {FORM}", shown(list))))?;
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for given in list {
        let id = whole_number(given)
            .as_i64()
            .filter(|id| (1..=MAX_CAPTION_ID).contains(id))
            .ok_or_else(|| invalid(name, format!("{} is no caption's id: {FORM}", shown(given))))?;
        if seen.insert(id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(invalid(name, format!("empty: {FORM}")));
    }
    if ids.len() > MAX_CAPTIONS {
        return Err(invalid(
            name,
            format!(
                "{} captions are more than the {MAX_CAPTIONS} of one run: queue several",
                ids.len()
            ),
        ));
    }
    Ok(ids)
}

/// JavaScript has one number type: `10.0` is the whole number 10.
fn whole_numbers(value: &Value) -> Value {
    let Value::Object(map) = value else {
        return value.clone();
    };
    Value::Object(
        map.iter()
            .map(|(key, value)| (key.clone(), whole_number(value)))
            .collect(),
    )
}

fn whole_number(value: &Value) -> Value {
    match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Flows;
    use super::*;

    fn given(extra: &Value) -> Map<String, Value> {
        let mut map =
            json!({"video-id": "v1", "video-path": "a.mp4", "db-path": "/d/annotations.db", "output-dir": "out"});
        for (key, value) in extra.as_object().expect("an object") {
            map[key] = value.clone();
        }
        map.as_object().expect("an object").clone()
    }

    fn parse(flow: &str, extra: &Value) -> Result<Arguments, String> {
        let flows = Flows::builtin();
        let flow = flows.get(flow).expect("a built-in flow");
        flow.parse_arguments(&given(extra), Path::new("/home/app"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn paths_become_absolute_and_defaults_are_filled_in() {
        let arguments = parse("full-frames", &json!({})).expect("valid");
        let files = VideoFiles {
            video_id: "v1".to_owned(),
            video_path: "/home/app/a.mp4".into(),
            db_path: "/d/annotations.db".into(),
            output_dir: "/home/app/out".into(),
        };
        let expected = FullFrames {
            files,
            frame_rate_hz: 0.1,
            on_damage: OnDamage::Keep,
        };
        assert_eq!(arguments, Arguments::FullFrames(expected));
    }

    #[test]
    fn crop_bounds_are_taken_as_text_or_object() {
        let bounds = CropBounds {
            left: 1,
            top: 2,
            right: 30,
            bottom: 40,
        };
        for value in [
            json!({"left": 1, "top": 2, "right": 30, "bottom": 40}),
            json!(r#"{"left":1,"top":2.0,"right":30,"bottom":40}"#),
        ] {
            let arguments = parse("crop-frames", &json!({"crop-bounds": value})).expect("valid");
            let Arguments::CropFrames(crop) = arguments else {
                panic!("{arguments:?}")
            };
            assert_eq!((crop.crop_bounds, crop.crop_bounds_version), (Some(bounds), None));
        }
    }

    #[test]
    fn bounds_that_are_not_given_are_no_parameters() {
        for extra in [json!({}), json!({"crop-bounds": null, "crop-bounds-version": null})] {
            let arguments = parse("crop-frames", &extra).expect("valid");
            let parameters = arguments.to_parameters().0;
            assert!(
                parameters.keys().all(|name| !name.starts_with("crop-bounds")),
                "{parameters:?}"
            );
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        let bounds = json!({"left": 0, "top": 0, "right": 9, "bottom": 9});
        for (flow, extra, expected) in [
            ("full-frames", json!({"frame-rte": 1}), "did you mean \"frame-rate\""),
            ("full-frames", json!({"video-id": ""}), "\"video-id\": empty"),
            ("full-frames", json!({"video-id": null}), "\"video-id\": missing"),
            ("full-frames", json!({"video-id": 5}), "5 is not text"),
            ("full-frames", json!({"frame-rate": 0}), "0 is not a frame rate"),
            ("full-frames", json!({"frame-rate": "-1"}), "-1 is not a frame rate"),
            ("full-frames", json!({"frame-rate": "NaN"}), "not a finite number"),
            ("full-frames", json!({"on-damage": "stop"}), "not keep or fail"),
            ("full-frames", json!({"video-path": "http://x/y.mp4"}), "is an address"),
            ("full-frames", json!({"video-path": "concat:a|b"}), "is an address"),
            ("full-frames", json!({"crop-bounds": bounds}), "unknown argument"),
            ("crop-frames", json!({"crop-bounds": "{"}), "is not JSON"),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 5, "top": 0, "right": 5, "bottom": 9}}),
                "has no area",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": -1, "top": 0, "right": 5, "bottom": 9}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 0.5, "top": 0, "right": 5, "bottom": 9}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 0, "top": 0, "right": 5}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": bounds, "crop-bounds-version": 0}),
                "whole number from 1",
            ),
        ] {
            let error = parse(flow, &extra).expect_err("refused");
            assert!(error.contains(expected), "{extra}: {error}");
        }
    }

    fn captions(ids: &Value, more: &Value) -> Result<CaptionMedianOcr, String> {
        let flows = Flows::builtin();
        let flow = flows.get("caption-median-ocr").expect("built in");
        let mut given = json!({"video-id": "v1", "db-path": "/d/annotations.db", "video-dir": "d", "caption-ids": ids});
        for (key, value) in more.as_object().expect("an object") {
            given[key] = value.clone();
        }
        match flow.parse_arguments(given.as_object().expect("an object"), Path::new("/home/app")) {
            Ok(Arguments::CaptionMedianOcr(captions)) => Ok(captions),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn captions_are_named_by_a_list_or_its_text_each_once() {
        for ids in [json!([7, 3, 7.0]), json!("[7, 3, 3]")] {
            let captions = captions(&ids, &json!({})).expect("valid");
            assert_eq!(captions.caption_ids, [7, 3]);
            assert_eq!(captions.video_dir, Path::new("/home/app/d"));
            assert_eq!(captions.language, "zh-Hans");
            let parameters = Arguments::CaptionMedianOcr(captions).to_parameters();
            assert_eq!(parameters.caption_ids(), Some(BTreeSet::from([3, 7])));
        }
        let most: Vec<i64> = (1..=10_000).collect();
        assert_eq!(captions(&json!(most), &json!({})).expect("valid").caption_ids, most);
    }

    #[test]
    fn ids_that_name_no_caption_are_refused_each_by_name() {
        let too_many: Vec<i64> = (1..=10_001).collect();
        for (ids, expected) in [
            (json!([]), "\"caption-ids\": empty"),
            (json!("[]"), "\"caption-ids\": empty"),
            (json!(""), "is not JSON"),
            (json!("1,2"), "is not JSON"),
            (json!(5), "5 is no list"),
            (json!({"id": 5}), "is no list"),
            (json!([1.5]), "1.5 is no caption's id"),
            (json!([0]), "0 is no caption's id"),
            (json!([-3]), "-3 is no caption's id"),
            (json!([null]), "null is no caption's id"),
            (json!(["5"]), "\"5\" is no caption's id"),
            (json!([1e300]), "is no caption's id"),
            (json!([9_007_199_254_740_992_i64]), "is no caption's id"),
            (json!(too_many), "10001 captions are more than the 10000"),
            (json!(null), "\"caption-ids\": missing"),
        ] {
            let error = captions(&ids, &json!({})).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
        let error = captions(&json!([1]), &json!({"language": 5})).expect_err("refused");
        assert!(error.contains("5 is not text"), "{error}");
    }

    #[test]
    fn what_is_stored_is_parsed_to_the_same() {
        let bounds = json!({"crop-bounds": {"left": 1, "top": 2, "right": 30, "bottom": 40}});
        for (flow, extra) in [("full-frames", json!({})), ("crop-frames", bounds)] {
            let arguments = parse(flow, &extra).expect("valid");
            let flows = Flows::builtin();
            let flow = flows.get(flow).expect("built in");
            let again = flow.parse_arguments(&arguments.to_parameters().0, Path::new("/"));
            assert_eq!(again.expect("valid"), arguments);
        }
    }

    #[test]
    fn a_default_stays_as_it_was_written() {
        let flows = Flows::builtin();
        let mut flow = flows.get("full-frames").expect("built in").clone();
        flow.runner = Runner::Command(super::super::CommandRunner {
            command: vec!["program".to_owned()],
            working_directory: None,
            environment: std::collections::BTreeMap::default(),
        });
        flow.parameters = vec![ParameterDefinition {
            name: "count".to_owned(),
            kind: ParameterKind::Number,
            default: Some(json!(20)),
            description: String::new(),
        }];
        let first = flow.parse_arguments(&Map::new(), Path::new("/")).expect("valid");
        let again = flow.parse_arguments(&first.to_parameters().0, Path::new("/"));
        // 20.0 would be another argument of the program.
        assert_eq!(again.expect("valid").to_parameters().0["count"].to_string(), "20");
    }

    #[test]
    fn what_nobody_asked_for_is_no_parameter() {
        let parameters = |extra| parse("full-frames", &extra).expect("valid").to_parameters().0;
        for extra in [json!({}), json!({"on-damage": "keep"})] {
            assert!(!parameters(extra).contains_key("on-damage"));
        }
        assert_eq!(parameters(json!({"on-damage": "fail"}))["on-damage"], "fail");
    }
}
