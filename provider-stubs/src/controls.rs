//! What a test asks of one request, read from headers, query and prompt. Every value is bounded; an unknown or unusable one is a 400.

use axum::http::{HeaderMap, StatusCode};
use std::time::Duration;

const PREFIX: &str = "x-stub-";
const OPENING: &str = "[[stub ";
const CLOSING: &str = "]]";
const MAX_DELAY_MS: u64 = 60_000;
const MAX_COMPLETION_TOKENS: u64 = 100_000;
const MAX_REPORTED: u64 = (1 << 53) - 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    pub delay: Duration,
    pub status: Option<StatusCode>,
    pub drop_connection: bool,
    pub garbage: bool,
    pub usage: Option<ReportedUsage>,
    pub completion_tokens: Option<u64>,
}

/// What is said about usage instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedUsage {
    Omitted,
    Exactly { prompt: u64, completion: u64 },
}

impl Controls {
    /// # Errors
    /// A sentence that names the control and what it takes.
    pub fn read(headers: &HeaderMap, query: Option<&str>) -> Result<Self, String> {
        let mut controls = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some(name) = name.strip_prefix(PREFIX) {
                controls.set(name, &value.replace("%2C", ","))?;
            }
        }
        for (name, value) in headers {
            if let Some(name) = name.as_str().strip_prefix(PREFIX) {
                controls.set(name, value.to_str().unwrap_or_default())?;
            }
        }
        Ok(controls)
    }

    /// Obeys a directive at the head of the text and returns what follows it.
    ///
    /// # Errors
    /// As [`Controls::read`].
    pub fn take_directive<'t>(&mut self, text: &'t str) -> Result<&'t str, String> {
        let Some((directive, rest)) = text.trim_start().strip_prefix(OPENING).and_then(|text| text.split_once(CLOSING)) else {
            return Ok(text);
        };
        for word in directive.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            self.set(name, value)?;
        }
        Ok(rest)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        let refuse = |takes: &str| Err(format!("the stub control {name} takes {takes}"));
        match name {
            "delay-ms" => match up_to(value, MAX_DELAY_MS) {
                Some(delay) => self.delay = Duration::from_millis(delay),
                None => return refuse("a number of milliseconds up to 60000"),
            },
            "status" => match value.parse().ok().and_then(error_status) {
                Some(status) => self.status = Some(status),
                None => return refuse("an error status from 400 to 599"),
            },
            "drop" => match value.parse() {
                Ok(wanted) => self.drop_connection = wanted,
                Err(_) => return refuse("true or false"),
            },
            "garbage" => match value.parse() {
                Ok(wanted) => self.garbage = wanted,
                Err(_) => return refuse("true or false"),
            },
            "usage" => match reported_usage(value) {
                Some(usage) => self.usage = Some(usage),
                None => return refuse("omit, or prompt and completion tokens as in 12,7"),
            },
            "completion-tokens" => match up_to(value, MAX_COMPLETION_TOKENS) {
                Some(tokens) => self.completion_tokens = Some(tokens),
                None => return refuse("a number of tokens up to 100000"),
            },
            _ => return Err("unknown stub control: there are delay-ms, status, drop, garbage, usage and completion-tokens".into()),
        }
        Ok(())
    }
}

fn up_to(value: &str, limit: u64) -> Option<u64> {
    value.parse().ok().filter(|number| *number <= limit)
}

fn error_status(code: u16) -> Option<StatusCode> {
    StatusCode::from_u16(code).ok().filter(|_| (400..600).contains(&code))
}

fn reported_usage(value: &str) -> Option<ReportedUsage> {
    if value == "omit" {
        return Some(ReportedUsage::Omitted);
    }
    let (prompt, completion) = value.split_once(',')?;
    Some(ReportedUsage::Exactly { prompt: up_to(prompt, MAX_REPORTED)?, completion: up_to(completion, MAX_REPORTED)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directive_is_obeyed_and_is_no_part_of_the_prompt() {
        let mut controls = Controls::default();
        let rest = controls.take_directive("[[stub status=503 delay-ms=20 usage=omit]] count these words").unwrap();
        assert_eq!(rest.split_whitespace().count(), 3);
        assert_eq!(controls.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(controls.delay, Duration::from_millis(20));
        assert_eq!(controls.usage, Some(ReportedUsage::Omitted));
    }

    #[test]
    fn text_that_only_looks_like_a_directive_is_a_prompt() {
        for text in ["tell me about [[stub status=500]]", "[[stub status=500", "[[stubborn]]"] {
            let mut controls = Controls::default();
            assert_eq!(controls.take_directive(text), Ok(text));
            assert_eq!(controls, Controls::default());
        }
    }

    #[test]
    fn every_control_is_bounded() {
        for directive in [
            "delay-ms=60001",
            "status=200",
            "status=600",
            "drop=maybe",
            "usage=1",
            "usage=1,9007199254740992",
            "tokens=1",
            "completion-tokens=100001",
        ] {
            let text = format!("[[stub {directive}]] x");
            assert!(Controls::default().take_directive(&text).is_err(), "{directive}");
        }
    }
}
