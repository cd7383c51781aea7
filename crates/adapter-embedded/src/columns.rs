//! How values of the domain are kept in columns, and how rows travel into a statement.

use crate::database::STORE;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    ids::{Model, Payer, Provider, Shard},
};
use ports::{Clock, Result, StoreError};
use serde::{Serialize, Serializer, de::DeserializeOwned};
use uuid::Uuid;

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::corrupt(STORE, what)
}

pub(crate) fn now_ms(clock: &Clock) -> i64 {
    clock.now().timestamp_millis()
}

pub(crate) fn instant(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| corrupt(format!("{millis} ms is not a time")))
}

pub(crate) fn optional_instant(millis: Option<i64>) -> Result<Option<DateTime<Utc>>> {
    millis.map(instant).transpose()
}

pub(crate) fn optional_millis(at: Option<DateTime<Utc>>) -> Option<i64> {
    at.map(|at| at.timestamp_millis())
}

pub(crate) fn tokens(amount: i64) -> Result<Tokens> {
    Tokens::new(amount).map_err(|error| corrupt(format!("amount {amount}: {error}")))
}

pub(crate) fn payer(kind: &str, tenant: Uuid) -> Result<Payer> {
    Payer::from_parts(kind, tenant).ok_or_else(|| corrupt(format!("payer kind {kind:?}")))
}

pub(crate) fn provider(name: &str) -> Result<Provider> {
    Provider::parse(name).map_err(|error| corrupt(format!("provider {name:?} {error}")))
}

pub(crate) fn model(name: &str) -> Result<Model> {
    Model::parse(name).map_err(|error| corrupt(format!("model {name:?} {error}")))
}

pub(crate) fn shard(index: i64) -> Result<Shard> {
    u8::try_from(index).ok().and_then(|index| Shard::new(index).ok()).ok_or_else(|| corrupt(format!("shard {index}")))
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(format!("a row cannot be written as JSON: {error}")))
}

/// `what` names the column in the error.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(format!("{what}: {error}")))
}

/// Bytes on their way into `unhex(…)`.
#[derive(Clone, Debug)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        let mut text = String::with_capacity(self.0.len() * 2);
        for byte in &self.0 {
            text.push(digit(byte >> 4));
            text.push(digit(byte & 0x0f));
        }
        serializer.serialize_str(&text)
    }
}
