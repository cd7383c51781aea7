//! The record of the schema as a struct, and its way from and to the domain's event. Nothing builds an Avro value tree.

use crate::{DecodeError, EncodeError, USAGE_EVENT_SCHEMA, fields::Fields};
use apache_avro::{Schema, writer::datum::GenericDatumWriter};
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent, UsageEvent},
    ids::{ChargeId, EventId, KeyId, Model, OrgId, Payer, Provider, UserId},
    money::{Cost, Currency},
};
use serde::Serialize;
use std::{borrow::Cow, sync::LazyLock};
use uuid::Uuid;

/// A little above the usual event, so that encoding allocates once.
const USUAL_EVENT_BYTES: usize = 320;

type Shared<T> = LazyLock<Result<T, apache_avro::Error>>;

static SCHEMA: Shared<Schema> = LazyLock::new(|| Schema::parse_str(USAGE_EVENT_SCHEMA));

// Ids are texts in the schema: "human readable" selects serde's textual form of a UUID.
static WRITER: LazyLock<Result<GenericDatumWriter<'static>, String>> = LazyLock::new(|| {
    let schema = SCHEMA.as_ref().map_err(ToString::to_string)?;
    GenericDatumWriter::builder(schema).human_readable(true).build().map_err(|error| error.to_string())
});

/// Field for field `weir.v1.UsageEvent`, in the order of the schema: the writer would buffer what comes out of order.
#[derive(Serialize)]
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

/// By hand: every event is decoded by each of its readers, and all that is wanted of a record is what this schema says.
pub(crate) fn decode(payload: &[u8]) -> Result<UsageEvent, DecodeError> {
    let mut fields = Fields(payload);
    let id = EventId(fields.id("eventId")?);
    let kind = fields.kind()?;
    let shard = fields.int("shard")?;
    let seq = fields.long("seq")?;
    let epoch = fields.int("epoch")?;
    let (occurred_at, recorded_at) = (fields.long("occurredAt")?, fields.long("recordedAt")?);
    let tenant = fields.id("tenant")?;
    let org_id = fields.optional("orgId", Fields::id)?;
    let user_id = fields.text("userId")?;
    let key_id = fields.optional("keyId", Fields::id)?.map(KeyId);
    let provider = fields.text("provider")?;
    let model = fields.optional("model", Fields::text)?;
    let charge_id = fields.optional("chargeId", Fields::id)?.map(ChargeId);
    let (tokens, count) = (fields.long("tokens")?, fields.long("count")?);
    let reason = fields.optional("reason", Fields::text)?.map(str::to_owned);
    let (cost_minor_units, currency) = (fields.optional("costMinorUnits", Fields::long)?, fields.optional("currency", Fields::text)?);
    let metadata = fields.texts("metadata")?;
    if !fields.0.is_empty() {
        return Err(DecodeError::TrailingBytes(fields.0.len()));
    }
    let payer = payer(tenant, org_id)?;
    for (field, valid) in [("shard", shard == i32::from(payer.shard().index())), ("seq", seq >= 1), ("count", count >= 1)] {
        if !valid {
            return Err(invalid(field));
        }
    }
    let event = NewEvent {
        id,
        kind,
        payer,
        user_id: unless_empty(user_id, |text| text.parse::<UserId>().map_err(|_| invalid("userId")))?,
        key_id,
        provider: unless_empty(provider, |text| Provider::parse(text).map_err(|_| invalid("provider")))?,
        model: model.map(Model::parse).transpose().map_err(|_| invalid("model"))?,
        charge_id,
        tokens: Tokens::new(tokens).map_err(|_| invalid("tokens"))?,
        count,
        cost: cost(cost_minor_units, currency)?,
        reason,
        occurred_at: time("occurredAt", occurred_at)?,
        metadata,
    };
    Ok(UsageEvent { event, seq, epoch, recorded_at: time("recordedAt", recorded_at)? })
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

fn payer(tenant: Uuid, org_id: Option<Uuid>) -> Result<Payer, DecodeError> {
    match org_id {
        None => Ok(Payer::User(UserId(tenant))),
        Some(org) if org == tenant => Ok(Payer::Org(OrgId(org))),
        Some(_) => Err(invalid("orgId")),
    }
}

/// Both or neither.
fn cost(minor_units: Option<i64>, currency: Option<&str>) -> Result<Option<Cost>, DecodeError> {
    match (minor_units, currency) {
        (None, None) => Ok(None),
        (Some(units), Some(currency)) => {
            let minor_units = Tokens::new(units).map_err(|_| invalid("costMinorUnits"))?;
            Ok(Some(Cost { minor_units, currency: currency.parse().map_err(|_| invalid("currency"))? }))
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
