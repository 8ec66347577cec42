//! The names of the Python service that was there before: its callers go on calling `crop-video-frames/production` with
//! `video_id`. Its parameters are ours with `_` for `-`.

use serde_json::{Map, Value};

use super::definition::FlowDefinition;
use super::work_queue::WorkQueue;

/// A flow of that service, and the flow of ours that it means.
const LEGACY: [(&str, &str); 3] = [
    ("process-video-initial", "full-frames"),
    ("crop-video-frames", "crop-frames"),
    ("process-caption-median-ocr", "caption-median-ocr"),
];

/// The flow that a name means: what a flow of the service is called here, and any other name itself.
pub fn flow_meant_by(name: &str) -> &str {
    LEGACY
        .iter()
        .find(|(legacy, _)| *legacy == name)
        .map_or(name, |(_, own)| own)
}

/// The names by which a flow of ours is called: its own, and that of the service where it had it.
pub fn names_meaning(own: &str) -> impl Iterator<Item = &str> {
    let legacy = LEGACY.iter().filter(move |(_, meant)| *meant == own);
    std::iter::once(own).chain(legacy.map(|(legacy, _)| *legacy))
}

/// The flows of that service.
pub fn legacy_names() -> impl Iterator<Item = &'static str> {
    LEGACY.iter().map(|(legacy, _)| *legacy)
}

impl FlowDefinition {
    /// What that service called it, if it had it.
    pub fn legacy_name(&self) -> Option<&'static str> {
        LEGACY
            .iter()
            .find(|(_, own)| *own == self.name)
            .map(|(legacy, _)| *legacy)
    }

    /// The same flow as that service described it: another name, parameters in `snake_case`.
    pub fn as_legacy(&self) -> Option<Self> {
        let mut legacy = self.clone();
        self.legacy_name()?.clone_into(&mut legacy.name);
        for parameter in &mut legacy.parameters {
            parameter.name = parameter.name.replace('-', "_");
        }
        Some(legacy)
    }

    /// Tags of that service's deployment.
    pub const fn legacy_tags(&self) -> [&'static str; 2] {
        match self.work_queue {
            WorkQueue::Background => ["background", "low-priority"],
            WorkQueue::UserInitiated => ["user-initiated", "high-priority"],
        }
    }

    /// Parameters by the names of this flow: what it does not know and knows with `-` for `_` was meant so.
    pub fn own_names(&self, given: &Map<String, Value>) -> Map<String, Value> {
        let knows = |name: &str| self.parameters.iter().any(|parameter| parameter.name == name);
        given
            .iter()
            .map(|(name, value)| {
                let meant = name.replace('_', "-");
                let is_meant = !knows(name) && knows(&meant) && !given.contains_key(&meant);
                (if is_meant { meant } else { name.clone() }, value.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::catalogue::Flows;
    use super::*;

    #[test]
    fn what_the_old_service_was_called_with_means_the_same_here() {
        let flows = Flows::builtin();
        for name in legacy_names() {
            let flow = flows.get(flow_meant_by(name)).expect("a flow of ours");
            assert_eq!(flow.legacy_name(), Some(name));
            let legacy = flow.as_legacy().expect("it had it");
            let given: Map<String, Value> = legacy
                .parameters
                .iter()
                .map(|parameter| {
                    let value = match parameter.name.as_str() {
                        "crop_bounds" => json!({"left": 0, "top": 0, "right": 8, "bottom": 8}),
                        "crop_bounds_version" => json!(2),
                        "frame_rate" => json!(5.0),
                        "on_damage" => json!("fail"),
                        "caption_ids" => json!([3, 4]),
                        "language" => json!("fr"),
                        _ => json!("/v1"),
                    };
                    (parameter.name.clone(), value)
                })
                .collect();
            let own = flow.own_names(&given);
            let arguments = flow.parse_arguments(&own, Path::new("/")).expect("valid");
            assert_eq!(arguments.to_parameters().0, own);
        }
        assert_eq!(flow_meant_by("train"), "train");
    }

    #[test]
    fn what_is_given_by_both_names_is_not_guessed() {
        let flows = Flows::builtin();
        let flow = flows.get("full-frames").expect("built in");
        let given = json!({"video-id": "a", "video_id": "b"});
        let given = given.as_object().expect("an object");
        assert_eq!(flow.own_names(given), *given);
    }
}
