//! W3C trace context, version 00: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Target of the spans that become traces; spans of other targets stay inside the process.
pub const TRACE_TARGET: &str = "weir::trace";

/// Trace id, parent span id and flags. Travels from the edge through the outbox and the log to the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub flags: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("is not a W3C traceparent of version 00")]
pub struct TraceParentError;

impl TraceParent {
    /// A new root, not sampled.
    pub fn generate() -> Self {
        let span = Uuid::new_v4().into_bytes();
        let mut span_id = [1; 8];
        span_id[..7].copy_from_slice(&span[..7]);
        Self { trace_id: Uuid::new_v4().into_bytes(), span_id, flags: 0 }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id), self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return Err(TraceParentError) };
        if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 || !parts.iter().all(|part| lower_hex(part)) {
            return Err(TraceParentError);
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| TraceParentError)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| TraceParentError)?;
        if trace_id == 0 || span_id == 0 {
            return Err(TraceParentError);
        }
        let flags = u8::from_str_radix(flags, 16).map_err(|_| TraceParentError)?;
        Ok(Self { trace_id: trace_id.to_be_bytes(), span_id: span_id.to_be_bytes(), flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_text_and_nonsense_is_refused() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), text);
        for bad in [
            "",
            "00-0-0-0",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
        assert!(TraceParent::generate().to_string().parse::<TraceParent>().is_ok());
    }
}
