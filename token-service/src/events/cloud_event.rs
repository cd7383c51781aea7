//! One CloudEvent 1.0, from its JSON or its headers to usage that is well formed.

use crate::{
    spend_request::{SpendFields, storable},
    token_kinds::UsageBody,
};
use axum::http::HeaderMap;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use domain::{charge::Metadata, ids::Payer};
use serde::Deserialize;
use serde_json::value::RawValue;
use service_kit::{json::parse_strict, problem::Problem};
use sha2::{Digest, Sha256};

/// Of an attribute, bytes.
const LONGEST_ATTRIBUTE: usize = 1_024;
/// How far a sender's clock may be ahead.
const AHEAD: TimeDelta = TimeDelta::minutes(5);
/// How late usage may be told; this long, at least, it is recognised.
const LATEST: TimeDelta = TimeDelta::days(400);

/// What can be said about an event before it is looked at closely, for the answer about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub id: Option<String>,
    pub source: Option<String>,
}

/// Usage as an event tells it.
#[derive(Debug)]
pub struct CloudEvent {
    id: String,
    source: String,
    pub occurred_at: Option<DateTime<Utc>>,
    /// Names the user where the data does not.
    subject: Option<String>,
    data: UsageData,
}

pub type Read = (Label, Result<CloudEvent, Problem>);

/// Attributes that are not named here are extensions, which every event may have.
#[derive(Deserialize)]
struct Structured<'a> {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    r#type: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UsageData {
    user_id: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    tokens: Option<i64>,
    usage: Option<UsageBody>,
    metadata: Option<Metadata>,
}

struct Attributes {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    time: Option<String>,
    subject: Option<String>,
}

impl CloudEvent {
    pub fn structured(bytes: &[u8]) -> Read {
        // Doubled names first, then the attributes; the data is read by itself, so that its places are its own.
        let checked = parse_strict::<serde::de::IgnoredAny>(bytes);
        let event: Result<Structured<'_>, Problem> = checked.and_then(|_| service_kit::json::parse_envelope(bytes));
        let event = match event {
            Ok(event) => event,
            Err(problem) => return (Label::default(), Err(problem)),
        };
        let label = Label { id: event.id.clone(), source: event.source.clone() };
        let Structured { specversion, id, source, r#type, time, subject, data, data_base64 } = event;
        if data_base64.is_some() {
            return (label, Err(Problem::field("data_base64", "the data must be JSON under data")));
        }
        let attributes = Attributes { specversion, id, source, kind: r#type, time, subject };
        let data = data.map_or("", RawValue::get);
        (label, attributes.event(data.as_bytes()))
    }

    pub fn binary(headers: &HeaderMap, body: &[u8]) -> Read {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let attributes = Attributes {
            specversion: header("ce-specversion"),
            id: header("ce-id"),
            source: header("ce-source"),
            kind: header("ce-type"),
            time: header("ce-time"),
            subject: header("ce-subject"),
        };
        let label = Label { id: attributes.id.clone(), source: attributes.source.clone() };
        (label, attributes.event(body))
    }

    /// The usage as a spend would be asked for.
    pub fn fields(&mut self) -> SpendFields {
        let UsageData { user_id, org_id, provider, model, tokens, usage, metadata } = &mut self.data;
        SpendFields {
            user_id: user_id.take().or_else(|| self.subject.take()),
            org_id: org_id.take(),
            provider: provider.take(),
            model: model.take(),
            tokens: *tokens,
            usage: usage.take(),
            metadata: metadata.take(),
        }
    }

    /// Under which this event is known for ever: of one payer, so that nobody can take another one's names.
    pub fn name_hash(&self, payer: Payer) -> [u8; 16] {
        let tenant = payer.tenant();
        let parts = [tenant.as_bytes().as_slice(), self.source.as_bytes(), self.id.as_bytes()];
        let hash = parts.into_iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0])).finalize();
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        name
    }

    /// Refuses what lies in the future, and what is so late that its repetition might not be recognised.
    pub fn check_time(&self, now: DateTime<Utc>) -> Result<(), Problem> {
        match self.occurred_at {
            Some(at) if at > now + AHEAD => Err(Problem::field("time", "time is in the future")),
            Some(at) if at < now - LATEST => Err(Problem::field("time", "time is more than 400 days ago")),
            _ => Ok(()),
        }
    }
}

impl Attributes {
    fn event(self, data: &[u8]) -> Result<CloudEvent, Problem> {
        match self.specversion.as_deref() {
            Some("1.0") => {}
            Some(_) => return Err(Problem::field_allowed("specversion", "specversion must be 1.0", vec!["1.0".into()])),
            None => return Err(Problem::field("specversion", "specversion is required")),
        }
        let id = attribute("id", self.id)?;
        let source = attribute("source", self.source)?;
        attribute("type", self.kind)?;
        let occurred_at = self.time.as_deref().map(instant).transpose()?;
        let subject = self.subject.map(|subject| attribute("subject", Some(subject))).transpose()?;
        if data.is_empty() {
            return Err(Problem::field("data", "data is required"));
        }
        Ok(CloudEvent { id, source, occurred_at, subject, data: parse_strict(data)? })
    }
}

fn attribute(name: &str, value: Option<String>) -> Result<String, Problem> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Err(Problem::field(name, format!("{name} is required"))) };
    if value.len() > LONGEST_ATTRIBUTE || !storable(&value) {
        return Err(Problem::field(name, format!("{name} must be at most {LONGEST_ATTRIBUTE} bytes without U+0000")));
    }
    Ok(value)
}

fn instant(text: &str) -> Result<DateTime<Utc>, Problem> {
    let parsed = DateTime::parse_from_rfc3339(text.trim());
    let at = parsed.map_err(|_| Problem::field("time", "time must be an instant such as 2026-11-21T12:00:00Z"))?.to_utc();
    Ok(at.duration_trunc(TimeDelta::milliseconds(1)).unwrap_or(at))
}
