//! Arguments by position, as the scripts that were there before take them: `queue_flow.py full-frames VIDEO_ID VIDEO_PATH …`.

use super::definition::{FlowDefinition, Runner};

impl FlowDefinition {
    /// Parameters that the command line also takes by their position, in this order; what is left out stays away.
    pub const fn positions(&self) -> &'static [&'static str] {
        match self.runner {
            Runner::FullFrames => &["video-id", "video-path", "db-path", "output-dir"],
            Runner::CropFrames => &["video-id", "video-path", "db-path", "output-dir", "crop-bounds"],
            Runner::CaptionMedianOcr => &["video-id", "db-path", "video-dir", "caption-ids", "language"],
            Runner::Command(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::Flows;

    #[test]
    fn what_has_a_position_is_a_parameter_and_what_is_required_has_one() {
        for flow in Flows::builtin().iter() {
            for name in flow.positions() {
                assert!(
                    flow.parameters.iter().any(|parameter| parameter.name == *name),
                    "{name}"
                );
            }
            for parameter in flow.parameters.iter().filter(|parameter| parameter.default.is_none()) {
                assert!(
                    flow.positions().contains(&parameter.name.as_str()),
                    "{}",
                    parameter.name
                );
            }
        }
    }
}
