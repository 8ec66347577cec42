//! How libav is set up, once a process.

use std::sync::Once;

use ffmpeg_next::log;

/// Keeps libav's own lines off stderr (what matters of them is in our errors), and has its errors say what they are.
pub(super) fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_level(log::Level::Quiet);
        // Without it they have no words.
        ffmpeg_next::util::error::register_all();
    });
}
