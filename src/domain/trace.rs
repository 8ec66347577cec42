//! A place in a trace, as the W3C writes it down (<https://www.w3.org/TR/trace-context/>): it goes with a run from the process
//! that queued it to the worker, and from there to the program of an attempt.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The variables by which a program that is started is told of the trace that it is part of, and of what vendors add to it.
pub const VARIABLES: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];

/// A span of a trace: what comes next is its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span; not 0.
    pub span_id: u64,
    /// Whether somebody keeps the trace: who does not know better does the same.
    pub is_sampled: bool,
}

/// A text that is no traceparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent, as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct NoTraceContext;

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    /// Of a version that is not known yet, what is known of it counts, as the W3C wants it.
    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.trim().split('-');
        let mut part = |length: usize| {
            parts
                .next()
                .filter(|part| part.len() == length && is_hex(part))
                .ok_or(NoTraceContext)
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(NoTraceContext);
        }
        let found = Self {
            trace_id: u128::from_str_radix(trace_id, 16).map_err(|_| NoTraceContext)?,
            span_id: u64::from_str_radix(span_id, 16).map_err(|_| NoTraceContext)?,
            is_sampled: u8::from_str_radix(flags, 16).map_err(|_| NoTraceContext)? & 1 == 1,
        };
        if found.trace_id == 0 || found.span_id == 0 {
            return Err(NoTraceContext);
        }
        Ok(found)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(formatter, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

impl TryFrom<String> for TraceContext {
    type Error = NoTraceContext;

    fn try_from(text: String) -> Result<Self, NoTraceContext> {
        text.parse()
    }
}

impl From<TraceContext> for String {
    fn from(context: TraceContext) -> Self {
        context.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_w3c_has_it() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = text.parse().expect("one");
        assert_eq!((context.span_id, context.is_sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(context.to_string(), text);
        for (text, is_one) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", false),
            ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<TraceContext>().is_ok(), is_one, "{text}");
        }
    }
}
