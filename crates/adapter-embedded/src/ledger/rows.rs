//! Rows of charges, pools and periods: one struct each for reading and, as JSON, for writing.

use crate::columns::{corrupt, from_json, instant, model, optional_instant, optional_millis, payer, provider, to_json, tokens};
use domain::{
    charge::{Charge, ChargeSpec, ChargeStatus},
    ids::{ChargeId, KeyId, UserId},
    money::Cost,
    pool::{AllowanceTerms, Balance, Pool, PoolKey, PoolPeriod},
    time::Period,
};
use ports::{Result, StoreError};
use serde::Serialize;
use uuid::Uuid;

#[derive(Debug, Serialize)]
pub(super) struct ChargeRow {
    shard: u8,
    id: Uuid,
    payer_kind: String,
    tenant: Uuid,
    user_id: Uuid,
    key_id: Option<Uuid>,
    provider: String,
    model: Option<String>,
    metadata: String,
    status: String,
    held: i64,
    settled: i64,
    refunded: i64,
    debt: i64,
    from_allowance: i64,
    from_purchased: i64,
    cost: Option<i64>,
    currency: Option<String>,
    period_start: Option<i64>,
    late: bool,
    created_at: i64,
    settled_at: Option<i64>,
    expires_at: Option<i64>,
    seq: i64,
}

from_row!(ChargeRow {
    shard,
    id,
    payer_kind,
    tenant,
    user_id,
    key_id,
    provider,
    model,
    metadata,
    status,
    held,
    settled,
    refunded,
    debt,
    from_allowance,
    from_purchased,
    cost,
    currency,
    period_start,
    late,
    created_at,
    settled_at,
    expires_at,
    seq
});

impl ChargeRow {
    pub(super) fn of(charge: &Charge) -> Result<Self> {
        let spec = &charge.spec;
        Ok(Self {
            shard: spec.payer.shard().index(),
            id: spec.id.0,
            payer_kind: spec.payer.kind().to_owned(),
            tenant: spec.payer.tenant(),
            user_id: spec.user_id.0,
            key_id: spec.key_id.map(|key| key.0),
            provider: spec.provider.as_str().to_owned(),
            model: spec.model.as_ref().map(|model| model.as_str().to_owned()),
            metadata: to_json(&spec.metadata)?,
            status: charge.status.as_str().to_owned(),
            held: charge.held.get(),
            settled: charge.settled.get(),
            refunded: charge.refunded.get(),
            debt: charge.debt.get(),
            from_allowance: charge.from_allowance.get(),
            from_purchased: charge.from_purchased.get(),
            cost: charge.cost.map(|cost| cost.minor_units.get()),
            currency: charge.cost.map(|cost| cost.currency.to_string()),
            period_start: optional_millis(charge.period_start),
            late: charge.late,
            created_at: charge.created_at.timestamp_millis(),
            settled_at: optional_millis(charge.settled_at),
            expires_at: optional_millis(charge.expires_at),
            seq: charge.seq,
        })
    }
}

impl TryFrom<ChargeRow> for Charge {
    type Error = StoreError;
    fn try_from(row: ChargeRow) -> Result<Self> {
        let status = ChargeStatus::parse(&row.status).ok_or_else(|| corrupt(format!("charge status {:?}", row.status)))?;
        Ok(Self {
            spec: ChargeSpec {
                id: ChargeId(row.id),
                payer: payer(&row.payer_kind, row.tenant)?,
                user_id: UserId(row.user_id),
                key_id: row.key_id.map(KeyId),
                provider: provider(&row.provider)?,
                model: row.model.as_deref().map(model).transpose()?,
                metadata: from_json("charge.metadata", &row.metadata)?,
            },
            status,
            held: tokens(row.held)?,
            settled: tokens(row.settled)?,
            refunded: tokens(row.refunded)?,
            debt: tokens(row.debt)?,
            from_allowance: tokens(row.from_allowance)?,
            from_purchased: tokens(row.from_purchased)?,
            cost: cost(row.cost, row.currency)?,
            period_start: optional_instant(row.period_start)?,
            late: row.late,
            created_at: instant(row.created_at)?,
            settled_at: optional_instant(row.settled_at)?,
            expires_at: optional_instant(row.expires_at)?,
            seq: row.seq,
        })
    }
}

fn cost(minor_units: Option<i64>, currency: Option<String>) -> Result<Option<Cost>> {
    let (Some(minor_units), Some(currency)) = (minor_units, currency) else { return Ok(None) };
    let currency = currency.parse().map_err(|_| corrupt(format!("currency {currency:?}")))?;
    Ok(Some(Cost { minor_units: tokens(minor_units)?, currency }))
}

#[derive(Debug, Serialize)]
pub(super) struct PoolRow {
    payer_kind: String,
    tenant: Uuid,
    provider: String,
    shard: u8,
    allowance: i64,
    period: String,
    time_zone: String,
    purchased_granted: i64,
    purchased_settled: i64,
    purchased_held: i64,
    debt: i64,
    period_starts_at: Option<i64>,
    period_ends_at: Option<i64>,
    period_granted: Option<i64>,
    period_settled: Option<i64>,
    period_held: Option<i64>,
    marks: Option<String>,
    updated_at: i64,
}

from_row!(PoolRow {
    payer_kind,
    tenant,
    provider,
    shard,
    allowance,
    period,
    time_zone,
    purchased_granted,
    purchased_settled,
    purchased_held,
    debt,
    period_starts_at,
    period_ends_at,
    period_granted,
    period_settled,
    period_held,
    marks,
    updated_at
});

impl PoolRow {
    pub(super) fn of(pool: &Pool) -> Result<Self> {
        let period = pool.current.as_ref();
        let marks = Some(&pool.marks).filter(|marks| !marks.is_empty());
        Ok(Self {
            payer_kind: pool.key.payer.kind().to_owned(),
            tenant: pool.key.payer.tenant(),
            provider: pool.key.provider.as_str().to_owned(),
            shard: pool.key.payer.shard().index(),
            allowance: pool.terms.allowance.get(),
            period: pool.terms.period.as_str().to_owned(),
            time_zone: pool.terms.time_zone.name().to_owned(),
            purchased_granted: pool.purchased.granted.get(),
            purchased_settled: pool.purchased.settled.get(),
            purchased_held: pool.purchased.held.get(),
            debt: pool.debt.get(),
            period_starts_at: period.map(|period| period.starts_at.timestamp_millis()),
            period_ends_at: optional_millis(period.and_then(|period| period.ends_at)),
            period_granted: period.map(|period| period.balance.granted.get()),
            period_settled: period.map(|period| period.balance.settled.get()),
            period_held: period.map(|period| period.balance.held.get()),
            marks: marks.map(to_json).transpose()?,
            updated_at: pool.updated_at.timestamp_millis(),
        })
    }

    fn current(&self) -> Result<Option<PoolPeriod>> {
        let (Some(starts_at), Some(granted), Some(settled), Some(held)) =
            (self.period_starts_at, self.period_granted, self.period_settled, self.period_held)
        else {
            return Ok(None);
        };
        Ok(Some(PoolPeriod {
            starts_at: instant(starts_at)?,
            ends_at: optional_instant(self.period_ends_at)?,
            balance: balance(granted, settled, held)?,
        }))
    }
}

impl TryFrom<PoolRow> for Pool {
    type Error = StoreError;
    fn try_from(row: PoolRow) -> Result<Self> {
        Ok(Self {
            key: PoolKey { payer: payer(&row.payer_kind, row.tenant)?, provider: provider(&row.provider)? },
            terms: AllowanceTerms {
                allowance: tokens(row.allowance)?,
                period: Period::parse(&row.period).ok_or_else(|| corrupt(format!("period {:?}", row.period)))?,
                time_zone: row.time_zone.parse().map_err(|_| corrupt(format!("time zone {:?}", row.time_zone)))?,
            },
            purchased: balance(row.purchased_granted, row.purchased_settled, row.purchased_held)?,
            debt: tokens(row.debt)?,
            current: row.current()?,
            marks: row.marks.as_deref().map(|marks| from_json("pool.marks", marks)).transpose()?.unwrap_or_default(),
            updated_at: instant(row.updated_at)?,
        })
    }
}

/// Address of a pool in a list of wanted rows.
#[derive(Debug, Serialize)]
pub(super) struct PoolRef<'a> {
    payer_kind: &'static str,
    tenant: Uuid,
    provider: &'a str,
}

impl<'a> PoolRef<'a> {
    pub(super) fn of(key: &'a PoolKey) -> Self {
        Self { payer_kind: key.payer.kind(), tenant: key.payer.tenant(), provider: key.provider.as_str() }
    }
}

/// A period that is not the current one of its pool.
#[derive(Debug, Serialize)]
pub(super) struct PeriodRow {
    payer_kind: String,
    tenant: Uuid,
    provider: String,
    starts_at: i64,
    shard: u8,
    ends_at: Option<i64>,
    granted: i64,
    settled: i64,
    held: i64,
}

from_row!(PeriodRow { payer_kind, tenant, provider, starts_at, shard, ends_at, granted, settled, held });

impl PeriodRow {
    pub(super) fn of(key: &PoolKey, period: &PoolPeriod) -> Self {
        Self {
            payer_kind: key.payer.kind().to_owned(),
            tenant: key.payer.tenant(),
            provider: key.provider.as_str().to_owned(),
            starts_at: period.starts_at.timestamp_millis(),
            shard: key.payer.shard().index(),
            ends_at: optional_millis(period.ends_at),
            granted: period.balance.granted.get(),
            settled: period.balance.settled.get(),
            held: period.balance.held.get(),
        }
    }

    pub(super) fn into_period(self) -> Result<(PoolKey, PoolPeriod)> {
        let key = PoolKey { payer: payer(&self.payer_kind, self.tenant)?, provider: provider(&self.provider)? };
        let period = PoolPeriod {
            starts_at: instant(self.starts_at)?,
            ends_at: optional_instant(self.ends_at)?,
            balance: balance(self.granted, self.settled, self.held)?,
        };
        Ok((key, period))
    }
}

/// A moment whose period of the pool is wanted.
#[derive(Debug, Serialize)]
pub(super) struct PeriodRef<'a> {
    #[serde(flatten)]
    pub(super) pool: PoolRef<'a>,
    pub(super) moment: i64,
}

fn balance(granted: i64, settled: i64, held: i64) -> Result<Balance> {
    Ok(Balance { granted: tokens(granted)?, settled: tokens(settled)?, held: tokens(held)? })
}
