//! Spans while they last, and who begins them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};

use super::exporter::Outlet;
use super::messages::{self, KeyValue, Status, Value};
use crate::domain::trace::TraceContext;
use crate::settings::traces::{Sampler, TraceSettings};

/// Longest text of an attribute or a status, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// Begins spans. Clones share their exporter; the last one's end ends it.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Exported>>);

struct Exported {
    sampler: Sampler,
    outlet: Outlet,
}

impl Tracer {
    /// Exports nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Exports as the settings say, within the runtime that this is called in. Nothing is sent before the first span has ended.
    pub fn begin(settings: Option<&TraceSettings>) -> Self {
        Self(settings.map(|settings| {
            Arc::new(Exported {
                sampler: settings.sampler,
                outlet: Outlet::open(settings.clone()),
            })
        }))
    }

    /// As [`Self::begin`], and sends what has ended at once: for a process with few spans, which may end at any moment and would take
    /// with it what is gathered.
    pub fn begin_prompt(settings: Option<&TraceSettings>) -> Self {
        let at_once = settings.map(|settings| TraceSettings {
            delay: Duration::ZERO,
            ..settings.clone()
        });
        Self::begin(at_once.as_ref())
    }

    /// Begins a span now.
    pub fn start(&self, name: impl Into<String>, kind: Kind, parent: Option<TraceContext>) -> Span {
        self.start_at(name, kind, parent, Timestamp::now())
    }

    /// Begins a span that has begun a moment ago.
    pub fn start_at(&self, name: impl Into<String>, kind: Kind, parent: Option<TraceContext>, at: Timestamp) -> Span {
        match &self.0 {
            Some(exported) => Span::begin(exported, name.into(), kind, parent, at),
            None => Span { parent, recorded: None },
        }
    }

    /// Sends what has ended until now, for as long as `patience`.
    pub async fn flush(&self, patience: Duration) {
        if let Some(exported) = &self.0 {
            exported.outlet.flush(patience).await;
        }
    }
}

/// What a span is to the spans around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step within a program.
    Internal = 1,
    /// Gives work to somebody who does it later.
    Producer = 4,
    /// Takes such work.
    Consumer = 5,
}

/// A span that has begun. Where nothing is exported, it only passes its parent on.
#[must_use = "a span is exported when it ends"]
pub struct Span {
    parent: Option<TraceContext>,
    recorded: Option<Box<Recorded>>,
}

struct Recorded {
    exported: Arc<Exported>,
    context: TraceContext,
    message: messages::Span,
}

impl fmt::Debug for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Span({:?})",
            self.context().map(|context| context.to_string())
        )
    }
}

impl Span {
    fn begin(exported: &Arc<Exported>, name: String, kind: Kind, parent: Option<TraceContext>, at: Timestamp) -> Self {
        let sampler = exported.sampler;
        let trace_id = parent.map_or_else(random, |parent| parent.trace_id);
        let is_sampled = match parent {
            Some(parent) if sampler.heeds_parent => parent.is_sampled,
            _ => is_within(sampler.share, trace_id),
        };
        // The half of a random number is one too.
        #[expect(clippy::cast_possible_truncation, reason = "as said")]
        let span_id = (random() as u64).max(1);
        let context = TraceContext {
            trace_id,
            span_id,
            is_sampled,
        };
        let message = messages::Span {
            trace_id: trace_id.to_be_bytes().to_vec(),
            span_id: span_id.to_be_bytes().to_vec(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_id.to_be_bytes().to_vec()),
            name,
            kind: kind as i32,
            start_time_unix_nano: nanoseconds(at),
            ..messages::Span::default()
        };
        Self {
            parent,
            recorded: Some(Box::new(Recorded {
                exported: exported.clone(),
                context,
                message,
            })),
        }
    }

    /// What its children begin from.
    pub fn context(&self) -> Option<TraceContext> {
        self.recorded.as_ref().map(|recorded| recorded.context).or(self.parent)
    }

    /// Says a text of it.
    pub fn text(&mut self, key: &str, text: &str) {
        self.set(key, bounded(text).into());
    }

    /// Says a number of it.
    pub fn number(&mut self, key: &str, number: impl Into<i64>) {
        self.set(key, number.into().into());
    }

    /// Says of it whether something is so.
    pub fn flag(&mut self, key: &str, is_so: bool) {
        self.set(key, is_so.into());
    }

    fn set(&mut self, key: &str, value: Value) {
        if let Some(recorded) = &mut self.recorded {
            recorded.message.attributes.push(KeyValue::new(key, value));
        }
    }

    /// What it was to do was not done.
    pub fn fail(&mut self, why: &str) {
        if let Some(recorded) = &mut self.recorded {
            recorded.message.status = Some(Status {
                message: bounded(why).to_owned(),
                code: ERROR,
            });
        }
    }

    /// It ends now.
    pub fn end(self) {
        let Some(recorded) = self.recorded else { return };
        let Recorded {
            exported,
            context,
            mut message,
        } = *recorded;
        if context.is_sampled {
            message.end_time_unix_nano = nanoseconds(Timestamp::now()).max(message.start_time_unix_nano);
            exported.outlet.export(message);
        }
    }
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// Not 0.
fn random() -> u128 {
    let mut bytes = [0; 16];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u128::from_be_bytes(bytes).max(1),
        Err(_) => fastrand::u128(1..),
    }
}

/// The last 8 bytes of a trace's id decide, in every process alike.
fn is_within(share: f64, trace_id: u128) -> bool {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a share need not be exact to the last of 64 bits"
    )]
    let place = (trace_id as u64) as f64 / 2_f64.powi(64);
    share >= 1.0 || place < share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_is_kept_and_in_every_process_the_same() {
        assert!(is_within(1.0, u128::MAX) && !is_within(0.0, 1 << 64));
        let kept = (0..10_000).filter(|_| is_within(0.25, random())).count();
        assert!((2000..3000).contains(&kept), "{kept}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(bounded(&"é".repeat(1000)).len(), MAX_TEXT_BYTES);
        assert_eq!(bounded("short"), "short");
    }
}
