//! The media libraries that are linked, and what `captionacc doctor` says of them.

use crate::domain::finding::Findings;

/// The media libraries that this program was built with, for `captionacc doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaDescription {
    /// `libavcodec 59.37.100` and so on.
    pub libraries: Vec<String>,
    /// `LGPL version 2.1 or later`.
    pub license: String,
    /// Video decoders that there are, of those that matter here: `h264`, `hevc`, …
    pub decoders: Vec<String>,
    /// Video decoders that matter here and are missing.
    pub missing_decoders: Vec<String>,
}

/// Describes the media libraries that are linked.
pub fn media_description() -> MediaDescription {
    const DECODERS: [&str; 8] = ["h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "msmpeg4", "mjpeg"];
    let version =
        |name: &str, version: u32| format!("{name} {}.{}.{}", version >> 16, (version >> 8) & 0xff, version & 0xff);
    let (decoders, missing_decoders): (Vec<_>, Vec<_>) = DECODERS
        .iter()
        .map(|name| (*name).to_owned())
        .partition(|name| ffmpeg_next::codec::decoder::find_by_name(name).is_some());
    MediaDescription {
        libraries: vec![
            version("libavformat", ffmpeg_next::format::version()),
            version("libavcodec", ffmpeg_next::codec::version()),
            version("libavutil", ffmpeg_next::util::version()),
            version("libswscale", ffmpeg_next::software::scaling::version()),
        ],
        license: ffmpeg_next::codec::license().to_owned(),
        decoders,
        missing_decoders,
    }
}

/// What is linked, and whether it decodes what it should.
pub fn check() -> Findings {
    let mut findings = Findings::default();
    let media = media_description();
    let summary = format!(
        "{}; {}; decodes {}",
        media.libraries.join(", "),
        media.license,
        media.decoders.join(", ")
    );
    if media.missing_decoders.is_empty() {
        findings.ok("media", summary);
    } else {
        findings.warning(
            "media",
            format!("{summary}; without {}", media.missing_decoders.join(", ")),
            "videos of those codecs fail: use the program as it is released, or build it with these decoders",
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::media_description;

    #[test]
    fn the_decoders_that_matter_are_linked() {
        let description = media_description();
        assert_eq!(description.missing_decoders, Vec::<String>::new(), "{description:?}");
        assert_eq!(description.libraries.len(), 4);
        assert!(description.license.contains("GPL"), "{}", description.license);
    }
}
