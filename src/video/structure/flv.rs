//! Flash Video: tags, each followed by its length.

use std::io;

use super::walk::{Break, Findings, MAX_ELEMENTS, Walk};

const SCRIPT: u8 = 18;
/// Bytes of the first script tag that are looked at for what it says of the file.
const SCRIPT_BYTES: usize = 1 << 16;
/// What the time goes back by where another recording begins.
const RESTART_MS: u32 = 1000;

pub(super) fn is_flv(head: &[u8]) -> bool {
    head.starts_with(b"FLV")
}

pub(super) fn inspect(walk: &Walk<'_>, head: &[u8]) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let Some(start) = head.get(5..).and_then(|rest| rest.first_chunk()) else {
        return Ok(findings);
    };
    let mut at = u64::from(u32::from_be_bytes(*start)) + 4;
    // Some writers give other numbers than the lengths, and do so from the first tag on.
    let mut has_lengths = None;
    let (mut stated_seconds, mut stated_bytes) = (None, None);
    let (mut last_ms, mut earlier_ms) = (0, 0);
    for _ in 0..MAX_ELEMENTS {
        let header = walk.read(at, 11)?;
        if walk.stopped() || header.is_empty() {
            break;
        }
        let (11, Some([kind, size @ .., high, middle, low, highest])) = (header.len(), header.first_chunk::<8>())
        else {
            findings.ends_within("tag", at, at + 15, walk.length);
            break;
        };
        // Sound, picture, script data; the last in two forms.
        if !matches!(*kind, 8 | 9 | 15 | SCRIPT) {
            findings.breaks.push(Break::of_chain(at));
            break;
        }
        let length = 11 + size.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let end = at + length;
        let stated = walk.read(end, 4)?;
        let Some(stated) = stated.first_chunk() else {
            // Whether a wrong length or a missing end: nothing comes after it.
            // A whole last tag that only lacks its own length is all there.
            if end > walk.length {
                findings.ends_within("tag", at, end + 4, walk.length);
            }
            break;
        };
        let fits = u64::from(u32::from_be_bytes(*stated)) == length;
        if !fits && *has_lengths.get_or_insert(fits) {
            findings.breaks.push(Break::of_chain(end));
            break;
        }
        has_lengths.get_or_insert(fits);
        if *kind == SCRIPT && stated_seconds.is_none() {
            let script = walk.read(
                at + 11,
                SCRIPT_BYTES.min(usize::try_from(length - 11).unwrap_or(SCRIPT_BYTES)),
            )?;
            stated_seconds = number_of(&script, b"\0\x08duration\0");
            stated_bytes = number_of(&script, b"\0\x08filesize\0");
        } else {
            let time_ms = u32::from_be_bytes([*highest, *high, *middle, *low]);
            // A second push begins at 0 again; sound and picture are not quite in order.
            if time_ms.saturating_add(RESTART_MS) < last_ms {
                earlier_ms += u64::from(last_ms);
                last_ms = time_ms;
            }
            last_ms = last_ms.max(time_ms);
        }
        at = end + 4;
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds and bytes of a file")]
    let (last_seconds, length) = ((earlier_ms + u64::from(last_ms)) as f64 / 1000.0, walk.length as f64);
    // Behind a break nobody knows what there is.
    findings.compare_length(
        stated_seconds,
        Some(last_seconds).filter(|_| findings.breaks.is_empty()),
    );
    if let Some(stated) = stated_bytes.filter(|stated| *stated > 0.0) {
        findings.end_is_known = true;
        if stated > length && findings.cut_off.is_none() {
            findings.cut_off = Some(format!("it has {length} bytes and says that it has {stated}"));
        }
    }
    Ok(findings)
}

/// The number that follows `name` in script data (AMF).
fn number_of(script: &[u8], name: &[u8]) -> Option<f64> {
    let at = script.windows(name.len()).position(|window| window == name)?;
    let number = script.get(at + name.len()..)?.first_chunk()?;
    Some(f64::from_be_bytes(*number))
}
