//! The record of the schema as a struct, and its way from and to the domain's event. Nothing builds an Avro value tree.

use crate::{DecodeError, EncodeError, USAGE_EVENT_SCHEMA};
use apache_avro::{Schema, reader::datum::GenericDatumReader, util::max_allocation_bytes, writer::datum::GenericDatumWriter};
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent, UsageEvent},
    ids::{ChargeId, EventId, KeyId, Model, OrgId, Payer, Provider, Shard, UserId},
    money::{Cost, Currency},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::LazyLock};
use uuid::Uuid;

/// The most that one length in a hostile record may make us allocate; the library's default is 512 MiB.
const MAX_ALLOCATION_BYTES: usize = 8 << 20;

/// A little above the usual event, so that encoding allocates once.
const USUAL_EVENT_BYTES: usize = 320;

type Shared<T> = LazyLock<Result<T, apache_avro::Error>>;

static SCHEMA: Shared<Schema> = LazyLock::new(|| {
    max_allocation_bytes(MAX_ALLOCATION_BYTES);
    Schema::parse_str(USAGE_EVENT_SCHEMA)
});

// Ids are texts in the schema: "human readable" selects serde's textual form of a UUID.
static WRITER: LazyLock<Result<GenericDatumWriter<'static>, String>> = LazyLock::new(|| {
    let schema = SCHEMA.as_ref().map_err(ToString::to_string)?;
    GenericDatumWriter::builder(schema).human_readable(true).build().map_err(|error| error.to_string())
});

static READER: LazyLock<Result<GenericDatumReader<'static>, String>> = LazyLock::new(|| {
    let schema = SCHEMA.as_ref().map_err(ToString::to_string)?;
    GenericDatumReader::builder(schema).human_readable(true).build().map_err(|error| error.to_string())
});

/// Field for field `weir.v1.UsageEvent`, in the order of the schema: the writer would buffer what comes out of order.
#[derive(Serialize, Deserialize)]
#[serde(rename = "UsageEvent", rename_all = "camelCase")]
struct Wire<'a> {
    event_id: EventId,
    #[serde(rename = "type")]
    kind: EventType,
    shard: i32,
    seq: i64,
    epoch: i32,
    occurred_at: i64,
    recorded_at: i64,
    tenant: Uuid,
    org_id: Option<OrgId>,
    /// Empty for facts about an org's pool.
    user_id: Cow<'a, str>,
    key_id: Option<KeyId>,
    /// Empty where a refusal named no known provider.
    provider: Cow<'a, str>,
    model: Option<Cow<'a, str>>,
    charge_id: Option<ChargeId>,
    tokens: i64,
    count: i64,
    reason: Option<Cow<'a, str>>,
    cost_minor_units: Option<i64>,
    currency: Option<Currency>,
    metadata: Cow<'a, Metadata>,
}

pub(crate) fn encode(event: &UsageEvent) -> Result<Vec<u8>, EncodeError> {
    let writer = WRITER.as_ref().map_err(|reason| EncodeError(reason.as_str().into()))?;
    let mut payload = Vec::with_capacity(USUAL_EVENT_BYTES);
    writer.write_ser(&mut payload, &Wire::from(event)).map_err(|error| EncodeError(error.into()))?;
    Ok(payload)
}

pub(crate) fn decode(payload: &[u8]) -> Result<UsageEvent, DecodeError> {
    let reader = READER.as_ref().map_err(|reason| DecodeError::NotAvro(reason.clone()))?;
    let mut rest = payload;
    let wire: Wire<'static> = reader.read_deser(&mut rest).map_err(|error| DecodeError::NotAvro(printable(&error.to_string())))?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes(rest.len()));
    }
    UsageEvent::try_from(wire)
}

/// What a hostile record made the library say may hold its bytes.
fn printable(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).take(200).collect()
}

impl<'a> From<&'a UsageEvent> for Wire<'a> {
    fn from(event: &'a UsageEvent) -> Self {
        let new = &event.event;
        Self {
            event_id: new.id,
            kind: new.kind,
            shard: i32::from(event.shard().index()),
            seq: event.seq,
            epoch: event.epoch,
            occurred_at: new.occurred_at.timestamp_millis(),
            recorded_at: event.recorded_at.timestamp_millis(),
            tenant: new.payer.tenant(),
            org_id: event.org_id(),
            user_id: new.user_id.map_or(Cow::Borrowed(""), |id| Cow::Owned(id.to_string())),
            key_id: new.key_id,
            provider: Cow::Borrowed(new.provider.as_ref().map_or("", Provider::as_str)),
            model: new.model.as_ref().map(|model| Cow::Borrowed(model.as_str())),
            charge_id: new.charge_id,
            tokens: new.tokens.get(),
            count: new.count,
            reason: new.reason.as_deref().map(Cow::Borrowed),
            cost_minor_units: new.cost.map(|cost| cost.minor_units.get()),
            currency: new.cost.map(|cost| cost.currency),
            metadata: Cow::Borrowed(&new.metadata),
        }
    }
}

impl TryFrom<Wire<'static>> for UsageEvent {
    type Error = DecodeError;
    fn try_from(wire: Wire<'static>) -> Result<Self, DecodeError> {
        let payer = wire.payer()?;
        if wire.shard != i32::from(Shard::of_tenant(wire.tenant).index()) {
            return Err(invalid("shard"));
        }
        if wire.seq < 1 {
            return Err(invalid("seq"));
        }
        if wire.count < 1 {
            return Err(invalid("count"));
        }
        let user_id = unless_empty(&wire.user_id, |text| text.parse::<UserId>().map_err(|_| invalid("userId")))?;
        let provider = unless_empty(&wire.provider, |text| Provider::parse(text).map_err(|_| invalid("provider")))?;
        let model = wire.model.as_deref().map(Model::parse).transpose().map_err(|_| invalid("model"))?;
        let event = NewEvent {
            id: wire.event_id,
            kind: wire.kind,
            payer,
            user_id,
            key_id: wire.key_id,
            provider,
            model,
            charge_id: wire.charge_id,
            tokens: Tokens::new(wire.tokens).map_err(|_| invalid("tokens"))?,
            count: wire.count,
            cost: cost(wire.cost_minor_units, wire.currency)?,
            reason: wire.reason.map(Cow::into_owned),
            occurred_at: time("occurredAt", wire.occurred_at)?,
            metadata: wire.metadata.into_owned(),
        };
        Ok(Self { event, seq: wire.seq, epoch: wire.epoch, recorded_at: time("recordedAt", wire.recorded_at)? })
    }
}

impl Wire<'_> {
    fn payer(&self) -> Result<Payer, DecodeError> {
        match self.org_id {
            None => Ok(Payer::User(UserId(self.tenant))),
            Some(org) if org.0 == self.tenant => Ok(Payer::Org(org)),
            Some(_) => Err(invalid("orgId")),
        }
    }
}

/// Both or neither.
fn cost(minor_units: Option<i64>, currency: Option<Currency>) -> Result<Option<Cost>, DecodeError> {
    match (minor_units, currency) {
        (None, None) => Ok(None),
        (Some(units), Some(currency)) => {
            let minor_units = Tokens::new(units).map_err(|_| invalid("costMinorUnits"))?;
            Ok(Some(Cost { minor_units, currency }))
        }
        _ => Err(invalid("currency")),
    }
}

fn unless_empty<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, DecodeError>) -> Result<Option<T>, DecodeError> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn time(field: &'static str, millis: i64) -> Result<DateTime<Utc>, DecodeError> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| invalid(field))
}

const fn invalid(field: &'static str) -> DecodeError {
    DecodeError::Field { field }
}
