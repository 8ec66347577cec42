//! What this program was built with, for `captionacc doctor`, and for the README's table of what is read.

use crate::domain::finding::Findings;

/// The media libraries that this program was built with.
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

/// The containers that are read: libav's demuxer, its name for people, and the names that its files have.
pub(super) const CONTAINERS: [(&str, &str, &str); 14] = [
    ("mov", "MP4, QuickTime, 3GP", "mp4, m4v, mov, 3gp"),
    ("matroska", "Matroska, WebM", "mkv, webm"),
    ("avi", "AVI", "avi"),
    ("mpegts", "MPEG transport stream", "ts, mts, m2ts"),
    ("mpeg", "MPEG program stream, DVD", "mpg, mpeg, vob"),
    ("flv", "Flash Video", "flv"),
    ("ogg", "Ogg", "ogv, ogg"),
    ("asf", "Windows Media", "wmv, asf"),
    ("mpegvideo", "MPEG-1 and MPEG-2 without a container", "m1v, m2v"),
    ("m4v", "MPEG-4 without a container", "m4v"),
    ("h264", "H.264 without a container", "h264, 264"),
    ("hevc", "HEVC without a container", "h265, hevc"),
    ("ivf", "IVF", "ivf"),
    ("obu", "AV1 without a container", "obu"),
];

/// The codecs that are read: a name for people, and libav's decoders of them.
pub(super) const CODECS: [(&str, &[&str]); 34] = [
    ("H.264", &["h264"]),
    ("HEVC (H.265)", &["hevc"]),
    ("AV1", &["libdav1d"]),
    ("VP9", &["vp9"]),
    ("VP8", &["vp8"]),
    ("VP6", &["vp6", "vp6a", "vp6f"]),
    ("MPEG-1", &["mpeg1video"]),
    ("MPEG-2", &["mpeg2video"]),
    ("MPEG-4 (DivX, Xvid)", &["mpeg4"]),
    ("MS-MPEG-4", &["msmpeg4v1", "msmpeg4", "msmpeg4v2"]),
    ("H.263", &["h263", "h263p"]),
    ("Sorenson Spark", &["flv"]),
    ("WMV 7, 8, 9, VC-1", &["wmv1", "wmv2", "wmv3", "vc1"]),
    ("WMV Screen", &["mss1", "mss2"]),
    ("Theora", &["theora"]),
    ("Motion JPEG", &["mjpeg"]),
    ("ProRes", &["prores"]),
    ("DNxHD, DNxHR", &["dnxhd"]),
    ("CineForm", &["cfhd"]),
    ("DV", &["dvvideo"]),
    ("FFV1", &["ffv1"]),
    ("HuffYUV", &["huffyuv", "ffvhuff"]),
    ("Ut Video", &["utvideo"]),
    ("Lagarith", &["lagarith"]),
    ("MagicYUV", &["magicyuv"]),
    ("PNG", &["png"]),
    ("Uncompressed, v210", &["rawvideo", "v210"]),
    ("Flash Screen Video", &["flashsv", "flashsv2"]),
    (
        "Screen recorders (ZMBV, CamStudio, TechSmith)",
        &["zmbv", "camstudio", "camtasia"],
    ),
    ("QuickTime Animation, Video, Graphics", &["qtrle", "rpza", "smc"]),
    ("Cinepak", &["cinepak"]),
    ("Sorenson Video 1, 3", &["svq1", "svq3"]),
    ("Indeo 3, 4, 5", &["indeo3", "indeo4", "indeo5"]),
    ("Microsoft Video 1, RLE", &["msvideo1", "msrle"]),
];

/// What files of the containers are called, first of all: `mp4, mkv, …`.
pub(super) fn extensions() -> String {
    let first = |files: &'static str| files.split(',').next().unwrap_or(files);
    let extensions: Vec<&str> = CONTAINERS.iter().map(|(_, _, files)| first(files)).collect();
    extensions.join(", ")
}

/// Describes the media libraries that are linked.
pub fn media_description() -> MediaDescription {
    let version =
        |name: &str, version: u32| format!("{name} {}.{}.{}", version >> 16, (version >> 8) & 0xff, version & 0xff);
    let (decoders, missing_decoders): (Vec<_>, Vec<_>) = CODECS
        .iter()
        .flat_map(|(_, decoders)| *decoders)
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
    use super::*;

    #[test]
    fn the_decoders_that_matter_are_linked() {
        let description = media_description();
        assert_eq!(description.missing_decoders, Vec::<String>::new(), "{description:?}");
        assert_eq!(description.libraries.len(), 4);
        assert!(description.license.contains("GPL"), "{}", description.license);
    }

    /// Whatever the build enables stands in the tables, and what stands there is enabled.
    #[test]
    fn the_tables_are_those_of_the_build() {
        let script = include_str!("../../scripts/build-libav.sh");
        let enabled = |option: &str| -> Vec<String> {
            let options = script.split_whitespace().filter_map(|word| word.strip_prefix(option));
            let mut names: Vec<String> = options.flat_map(|names| names.split(',')).map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        // configure calls four of them otherwise than libav does.
        let configured = |name: &str| match name {
            "msmpeg4" => "msmpeg4v3".to_owned(),
            "camstudio" => "cscd".to_owned(),
            "camtasia" => "tscc".to_owned(),
            "mpeg" => "mpegps".to_owned(),
            name => name.to_owned(),
        };
        let mut codecs: Vec<String> = CODECS
            .iter()
            .flat_map(|(_, names)| *names)
            .map(|name| configured(name))
            .collect();
        codecs.sort_unstable();
        assert_eq!(codecs, enabled("--enable-decoder="));
        let mut containers: Vec<String> = CONTAINERS.iter().map(|(name, ..)| configured(name)).collect();
        containers.sort_unstable();
        assert_eq!(containers, enabled("--enable-demuxer="));
    }

    /// The README says what is read in these words.
    #[test]
    fn the_readme_lists_what_is_read() {
        let readme = include_str!("../../README.md");
        let Some((_, readme)) = readme.split_once("Containers that are read") else {
            return;
        };
        let containers: Vec<String> = CONTAINERS
            .iter()
            .map(|(_, name, files)| format!("{name} ({files})"))
            .collect();
        let codecs: Vec<&str> = CODECS.iter().map(|(name, _)| *name).collect();
        for said in [containers.join("; "), codecs.join("; ")] {
            assert!(readme.contains(&said), "README.md does not say: {said}");
        }
    }
}
