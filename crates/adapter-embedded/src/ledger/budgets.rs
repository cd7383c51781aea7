//! Rows of budgets, and whose are looked for.

use crate::{
    columns::{corrupt, from_json, instant, optional_instant, optional_millis, payer, provider, to_json, tokens},
    database::failed,
};
use domain::{
    budget::{Budget, BudgetKey, BudgetPeriod, BudgetTerms, BudgetUnit},
    ids::{Payer, Provider, UserId},
    time::Period,
};
use ports::Result;
use serde::Serialize;
use sqlx::SqliteExecutor;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Debug, Serialize)]
pub(super) struct BudgetRow {
    payer_kind: String,
    tenant: Uuid,
    member: Uuid,
    provider: String,
    unit: String,
    period: String,
    shard: u8,
    most: Option<i64>,
    time_zone: String,
    thresholds: String,
    reached: String,
    starts_at: i64,
    ends_at: Option<i64>,
    used: i64,
    held: i64,
}

from_row!(BudgetRow {
    payer_kind,
    tenant,
    member,
    provider,
    unit,
    period,
    shard,
    most,
    time_zone,
    thresholds,
    reached,
    starts_at,
    ends_at,
    used,
    held
});

/// Whose budgets are wanted.
#[derive(Serialize)]
struct OwnerRef {
    payer_kind: &'static str,
    tenant: Uuid,
    member: Uuid,
}

fn member_column(member: Option<UserId>) -> Uuid {
    member.map_or(Uuid::nil(), |member| member.0)
}

impl BudgetRow {
    pub(super) fn of(budget: &Budget) -> Result<Self> {
        let Budget { key, terms, current } = budget;
        Ok(Self {
            payer_kind: key.payer.kind().to_owned(),
            tenant: key.payer.tenant(),
            member: member_column(key.member),
            provider: key.provider.as_ref().map_or("", Provider::as_str).to_owned(),
            unit: key.unit.as_str().to_owned(),
            period: key.period.as_str().to_owned(),
            shard: key.payer.shard().index(),
            most: terms.limit.map(|limit| limit.get()),
            time_zone: terms.time_zone.name().to_owned(),
            thresholds: to_json(&terms.thresholds)?,
            reached: to_json(&current.reached)?,
            starts_at: current.starts_at.timestamp_millis(),
            ends_at: optional_millis(current.ends_at),
            used: current.used.get(),
            held: current.held.get(),
        })
    }

    fn budget(self) -> Result<Budget> {
        let key = BudgetKey {
            payer: payer(&self.payer_kind, self.tenant)?,
            member: Some(UserId(self.member)).filter(|_| !self.member.is_nil()),
            provider: Some(self.provider.as_str()).filter(|name| !name.is_empty()).map(provider).transpose()?,
            unit: BudgetUnit::parse(&self.unit).ok_or_else(|| corrupt(format!("budget unit {:?}", self.unit)))?,
            period: Period::parse(&self.period).ok_or_else(|| corrupt(format!("period {:?}", self.period)))?,
        };
        let terms = BudgetTerms {
            limit: self.most.map(tokens).transpose()?,
            time_zone: self.time_zone.parse().map_err(|_| corrupt(format!("time zone {:?}", self.time_zone)))?,
            thresholds: from_json("budget.thresholds", &self.thresholds)?,
        };
        let current = BudgetPeriod {
            starts_at: instant(self.starts_at)?,
            ends_at: optional_instant(self.ends_at)?,
            used: tokens(self.used)?,
            held: tokens(self.held)?,
            reached: from_json("budget.reached", &self.reached)?,
        };
        Ok(Budget { key, terms, current })
    }
}

pub(super) fn by_key(rows: Vec<BudgetRow>) -> Result<BTreeMap<BudgetKey, Budget>> {
    rows.into_iter().map(|row| row.budget().map(|budget| (budget.key.clone(), budget))).collect()
}

pub(super) async fn load_budgets(
    executor: impl SqliteExecutor<'_>,
    owners: &BTreeSet<(Payer, Option<UserId>)>,
) -> Result<BTreeMap<BudgetKey, Budget>> {
    if owners.is_empty() {
        return Ok(BTreeMap::new());
    }
    let owner = |(payer, member): &(Payer, Option<UserId>)| OwnerRef {
        payer_kind: payer.kind(),
        tenant: payer.tenant(),
        member: member_column(*member),
    };
    let wanted: Vec<OwnerRef> = owners.iter().map(owner).collect();
    let query = sqlx::query_as::<_, BudgetRow>(include_str!("../../sql/load_budgets.sql")).bind(to_json(&wanted)?);
    by_key(query.fetch_all(executor).await.map_err(failed)?)
}
