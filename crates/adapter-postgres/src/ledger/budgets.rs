//! Budgets: loaded only where a shard has any, written when a batch changed some.

use super::{
    Failure,
    batch::Batch,
    rows::{is_org, payer, provider, tokens},
};
use crate::{error::corrupt, shard::shard_column};
use chrono::{DateTime, Utc};
use domain::{
    budget::{Budget, BudgetKey, BudgetPeriod, BudgetTerms, BudgetUnit},
    ids::{Payer, Provider, UserId},
    ledger::LedgerState,
    threshold::Threshold,
    time::Period,
};
use ports::{Result, ledger::LedgerRequest};
use sqlx::{FromRow, PgConnection, PgPool};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(FromRow)]
struct BudgetRow {
    payer_is_org: bool,
    payer_id: Uuid,
    member: Uuid,
    provider: String,
    unit: String,
    period: String,
    most: Option<i64>,
    time_zone: String,
    thresholds: String,
    reached: String,
    starts_at: DateTime<Utc>,
    ends_at: Option<DateTime<Utc>>,
    used: i64,
    held: i64,
}

impl BudgetRow {
    fn budget(self) -> Result<Budget> {
        let thresholds = |text: &str| -> Result<BTreeSet<Threshold>> {
            serde_json::from_str(text).map_err(|error| corrupt(format!("thresholds of a budget: {error}")))
        };
        let key = BudgetKey {
            payer: payer(self.payer_is_org, self.payer_id),
            member: Some(UserId(self.member)).filter(|_| !self.member.is_nil()),
            provider: Some(self.provider.as_str()).filter(|name| !name.is_empty()).map(provider).transpose()?,
            unit: BudgetUnit::parse(&self.unit).ok_or_else(|| corrupt("a budget of unknown unit"))?,
            period: Period::parse(&self.period).ok_or_else(|| corrupt("a budget of unknown period"))?,
        };
        let terms = BudgetTerms {
            limit: self.most.map(tokens).transpose()?,
            time_zone: self.time_zone.parse().map_err(|_| corrupt("a budget of unknown time zone"))?,
            thresholds: thresholds(&self.thresholds)?,
        };
        let current = BudgetPeriod {
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            used: tokens(self.used)?,
            held: tokens(self.held)?,
            reached: thresholds(&self.reached)?,
        };
        Ok(Budget { key, terms, current })
    }
}

fn member_column(member: Option<UserId>) -> Uuid {
    member.map_or(Uuid::nil(), |member| member.0)
}

/// Of the payers and members whom the requests name.
pub(super) async fn load_budgets<'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a LedgerRequest>,
    state: &mut LedgerState,
) -> Result<(), Failure> {
    let owners = state.budget_owners(requests.map(|request| &request.request));
    let rows: Vec<BudgetRow> = sqlx::query_as(include_str!("../sql/ledger/load_budgets.sql"))
        .bind(owners.iter().map(|(payer, _)| is_org(*payer)).collect::<Vec<_>>())
        .bind(owners.iter().map(|(payer, _)| payer.tenant()).collect::<Vec<_>>())
        .bind(owners.iter().map(|(_, member)| member_column(*member)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    state.budgets = by_key(rows)?;
    Ok(())
}

pub(super) async fn of_payer(pool: &PgPool, payer: Payer, member: Option<UserId>) -> sqlx::Result<Result<Vec<Budget>>> {
    let owners = BTreeSet::from([None, member]);
    let rows: Vec<BudgetRow> = sqlx::query_as(include_str!("../sql/ledger/load_budgets.sql"))
        .bind(owners.iter().map(|_| is_org(payer)).collect::<Vec<_>>())
        .bind(owners.iter().map(|_| payer.tenant()).collect::<Vec<_>>())
        .bind(owners.into_iter().map(member_column).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    Ok(by_key(rows).map(|budgets| budgets.into_values().collect()))
}

pub(super) async fn of_shard(connection: &mut PgConnection, shard: i16) -> Result<Vec<Budget>, Failure> {
    let rows: Vec<BudgetRow> = sqlx::query_as(include_str!("../sql/ledger/snapshot_budgets.sql")).bind(shard).fetch_all(connection).await?;
    Ok(by_key(rows)?.into_values().collect())
}

fn by_key(rows: Vec<BudgetRow>) -> Result<BTreeMap<BudgetKey, Budget>> {
    rows.into_iter().map(|row| row.budget().map(|budget| (budget.key.clone(), budget))).collect()
}

pub(super) async fn put_budgets(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(), Failure> {
    let budgets: Vec<&Budget> = batch.state.changed.budgets.iter().filter_map(|key| batch.state.budgets.get(key)).collect();
    if budgets.is_empty() {
        return Ok(());
    }
    let list = |thresholds: &BTreeSet<Threshold>| serde_json::to_string(thresholds).map_err(|error| corrupt(error.to_string()));
    let thresholds = budgets.iter().map(|budget| list(&budget.terms.thresholds)).collect::<Result<Vec<_>>>()?;
    let reached = budgets.iter().map(|budget| list(&budget.current.reached)).collect::<Result<Vec<_>>>()?;
    sqlx::query(include_str!("../sql/ledger/put_budgets.sql"))
        .bind(budgets.iter().map(|budget| shard_column(budget.key.payer.shard())).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| is_org(budget.key.payer)).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.key.payer.tenant()).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| member_column(budget.key.member)).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.key.provider.as_ref().map_or("", Provider::as_str)).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.key.unit.as_str()).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.key.period.as_str()).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.terms.limit.map(|limit| limit.get())).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.terms.time_zone.name()).collect::<Vec<_>>())
        .bind(thresholds)
        .bind(reached)
        .bind(budgets.iter().map(|budget| budget.current.starts_at).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.current.ends_at).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.current.used.get()).collect::<Vec<_>>())
        .bind(budgets.iter().map(|budget| budget.current.held.get()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
