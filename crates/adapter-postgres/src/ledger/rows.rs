//! Between the ledger's rows and what they mean.

use crate::error::corrupt;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeSpec, ChargeStatus, Metadata},
    ids::{ChargeId, KeyId, Model, OrgId, Payer, Provider, UserId},
    money::Cost,
    pool::{AllowanceTerms, Balance, Marks, Pool, PoolKey, PoolPeriod},
    time::Period,
};
use ports::Result;
use sqlx::FromRow;
use uuid::Uuid;

pub(crate) const fn is_org(payer: Payer) -> bool {
    matches!(payer, Payer::Org(_))
}

pub(crate) const fn payer(is_org: bool, id: Uuid) -> Payer {
    if is_org { Payer::Org(OrgId(id)) } else { Payer::User(UserId(id)) }
}

pub(super) fn tokens(amount: i64) -> Result<Tokens> {
    Tokens::new(amount).map_err(|error| corrupt(error.to_string()))
}

fn cost(minor_units: Option<i64>, currency: Option<String>) -> Result<Option<Cost>> {
    let (Some(minor_units), Some(currency)) = (minor_units, currency) else { return Ok(None) };
    let currency = currency.parse().map_err(|_| corrupt("a cost in no currency"))?;
    Ok(Some(Cost { minor_units: tokens(minor_units)?, currency }))
}

pub(super) fn provider(text: &str) -> Result<Provider> {
    Provider::parse(text).map_err(|_| corrupt("a provider that is no name"))
}

#[derive(FromRow)]
pub(super) struct ChargeRow {
    id: Uuid,
    payer_is_org: bool,
    payer_id: Uuid,
    user_id: Uuid,
    key_id: Option<Uuid>,
    provider: String,
    model: Option<String>,
    metadata: Option<String>,
    status: String,
    held: i64,
    settled: i64,
    refunded: i64,
    debt: i64,
    from_allowance: i64,
    from_purchased: i64,
    cost: Option<i64>,
    currency: Option<String>,
    period_start: Option<DateTime<Utc>>,
    late: bool,
    created_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    seq: i64,
}

impl ChargeRow {
    pub fn charge(self) -> Result<Charge> {
        let model = self.model.as_deref().map(Model::parse).transpose().map_err(|_| corrupt("a model that is no name"))?;
        let metadata = self.metadata.as_deref().map(serde_json::from_str::<Metadata>).transpose();
        Ok(Charge {
            spec: ChargeSpec {
                id: ChargeId(self.id),
                payer: payer(self.payer_is_org, self.payer_id),
                user_id: UserId(self.user_id),
                key_id: self.key_id.map(KeyId),
                provider: provider(&self.provider)?,
                model,
                metadata: metadata.map_err(|_| corrupt("metadata of a charge that is no object of texts"))?.unwrap_or_default(),
            },
            status: ChargeStatus::parse(&self.status).ok_or_else(|| corrupt("a charge of unknown status"))?,
            held: tokens(self.held)?,
            settled: tokens(self.settled)?,
            refunded: tokens(self.refunded)?,
            debt: tokens(self.debt)?,
            from_allowance: tokens(self.from_allowance)?,
            from_purchased: tokens(self.from_purchased)?,
            cost: cost(self.cost, self.currency)?,
            period_start: self.period_start,
            late: self.late,
            created_at: self.created_at,
            settled_at: self.settled_at,
            expires_at: self.expires_at,
            seq: self.seq,
        })
    }
}

#[derive(FromRow)]
pub(super) struct PoolRow {
    payer_is_org: bool,
    payer_id: Uuid,
    provider: String,
    allowance: i64,
    period: String,
    time_zone: String,
    purchased_granted: i64,
    purchased_settled: i64,
    purchased_held: i64,
    debt: i64,
    period_starts_at: Option<DateTime<Utc>>,
    period_ends_at: Option<DateTime<Utc>>,
    period_granted: Option<i64>,
    period_settled: Option<i64>,
    period_held: Option<i64>,
    updated_at: DateTime<Utc>,
    marks: Option<String>,
}

impl PoolRow {
    pub fn pool(self) -> Result<Pool> {
        let current = match (self.period_starts_at, self.period_granted, self.period_settled, self.period_held) {
            (Some(starts_at), Some(granted), Some(settled), Some(held)) => {
                Some(PoolPeriod { starts_at, ends_at: self.period_ends_at, balance: balance(granted, settled, held)? })
            }
            _ => None,
        };
        let marks = self.marks.as_deref().map(serde_json::from_str::<Marks>).transpose();
        Ok(Pool {
            key: PoolKey { payer: payer(self.payer_is_org, self.payer_id), provider: provider(&self.provider)? },
            terms: AllowanceTerms {
                allowance: tokens(self.allowance)?,
                period: Period::parse(&self.period).ok_or_else(|| corrupt("a pool of unknown period"))?,
                time_zone: self.time_zone.parse().map_err(|_| corrupt("a pool of unknown time zone"))?,
            },
            purchased: balance(self.purchased_granted, self.purchased_settled, self.purchased_held)?,
            debt: tokens(self.debt)?,
            current,
            marks: marks.map_err(|error| corrupt(format!("thresholds of a pool: {error}")))?.unwrap_or_default(),
            updated_at: self.updated_at,
        })
    }
}

#[derive(FromRow)]
pub(super) struct PeriodRow {
    payer_is_org: bool,
    payer_id: Uuid,
    provider: String,
    starts_at: DateTime<Utc>,
    ends_at: Option<DateTime<Utc>>,
    granted: i64,
    settled: i64,
    held: i64,
}

impl PeriodRow {
    pub fn period(self) -> Result<(PoolKey, PoolPeriod)> {
        let key = PoolKey { payer: payer(self.payer_is_org, self.payer_id), provider: provider(&self.provider)? };
        let balance = balance(self.granted, self.settled, self.held)?;
        Ok((key, PoolPeriod { starts_at: self.starts_at, ends_at: self.ends_at, balance }))
    }
}

fn balance(granted: i64, settled: i64, held: i64) -> Result<Balance> {
    Ok(Balance { granted: tokens(granted)?, settled: tokens(settled)?, held: tokens(held)? })
}
