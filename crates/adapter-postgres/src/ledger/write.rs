//! Writes what a batch decided: one statement for the rows of the common case, one more for each rarer table that is touched.

use super::{Failure, batch::Batch, budgets::put_budgets, rows::is_org, sagas::put_sagas};
use crate::{error::corrupt, shard::shard_column};
use domain::{
    charge::{Charge, Metadata},
    ledger::PeriodKey,
    pool::{Pool, PoolPeriod},
};
use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query};

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

pub(super) async fn write(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(), Failure> {
    let (new, changed) = charges(batch)?;
    let statement = bind_heads(sqlx::query(include_str!("../sql/ledger/write.sql")), batch);
    let statement = bind_new_charges(statement, &new)?;
    let pools = pools(batch)?;
    let statement = bind_events(bind_pools(statement, &pools), batch);
    let statement = batch.claims.bind_new(bind_costs(statement, &new));
    bind_marks(statement, &pools)?.execute(&mut *connection).await?;
    update_charges(connection, &changed).await?;
    put_periods(connection, batch).await?;
    put_budgets(connection, batch).await?;
    put_sagas(connection, batch).await?;
    batch.claims.change(connection).await?;
    Ok(())
}

/// The charges that did not exist before, and the others that changed.
fn charges<'a>(batch: &'a Batch<'_>) -> Result<(Vec<&'a Charge>, Vec<&'a Charge>), Failure> {
    let changed = &batch.state.changed;
    let (mut new, mut old) = (Vec::with_capacity(changed.new_charges.len()), Vec::new());
    for id in &changed.charges {
        let charge = batch.state.charges.get(id).ok_or_else(|| corrupt("a changed charge without state"))?;
        if changed.new_charges.contains(id) { new.push(charge) } else { old.push(charge) }
    }
    // In the order of their numbers: neighbours in the index stay neighbours in the table.
    new.sort_unstable_by_key(|charge| charge.spec.id);
    Ok((new, old))
}

fn pools<'a>(batch: &'a Batch<'_>) -> Result<Vec<&'a Pool>, Failure> {
    let keys = batch.state.changed.pools.iter();
    let pools = keys.map(|key| batch.state.pools.get(key).ok_or_else(|| corrupt("a changed pool without state")));
    Ok(pools.collect::<ports::Result<_>>()?)
}

fn bind_heads<'q>(statement: Statement<'q>, batch: &Batch<'_>) -> Statement<'q> {
    let heads = || batch.heads.values();
    statement
        .bind(batch.heads.keys().copied().map(shard_column).collect::<Vec<_>>())
        .bind(heads().map(|head| head.was).collect::<Vec<_>>())
        .bind(heads().map(|head| head.last_seq).collect::<Vec<_>>())
        .bind(heads().map(|head| head.epoch).collect::<Vec<_>>())
}

fn bind_new_charges<'q>(statement: Statement<'q>, charges: &[&'q Charge]) -> Result<Statement<'q>, Failure> {
    let metadata = charges.iter().map(|charge| metadata_text(&charge.spec.metadata)).collect::<Result<Vec<_>, Failure>>()?;
    Ok(statement
        .bind(charges.iter().map(|charge| shard_column(charge.spec.payer.shard())).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.id.0).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| is_org(charge.spec.payer)).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.payer.tenant()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.user_id.0).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.key_id.map(|key| key.0)).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.provider.as_str()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.model.as_ref().map(|model| model.as_str())).collect::<Vec<_>>())
        .bind(metadata)
        .bind(charges.iter().map(|charge| charge.status.as_str()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.held.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.settled.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.refunded.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.debt.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.from_allowance.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.from_purchased.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.period_start).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.late).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.created_at).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.settled_at).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.expires_at).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.seq).collect::<Vec<_>>()))
}

fn metadata_text(metadata: &Metadata) -> Result<Option<String>, Failure> {
    if metadata.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(metadata).map_err(|error| corrupt(format!("metadata that is no JSON: {error}")))?;
    Ok(Some(text))
}

fn bind_pools<'q>(statement: Statement<'q>, pools: &[&'q Pool]) -> Statement<'q> {
    let period = |pool: &&Pool| pool.current;
    statement
        .bind(pools.iter().map(|pool| shard_column(pool.key.payer.shard())).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| is_org(pool.key.payer)).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.key.payer.tenant()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.key.provider.as_str()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.terms.allowance.get()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.terms.period.as_str()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.terms.time_zone.name()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.purchased.granted.get()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.purchased.settled.get()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.purchased.held.get()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.debt.get()).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| period(pool).map(|period| period.starts_at)).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| period(pool).and_then(|period| period.ends_at)).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| period(pool).map(|period| period.balance.granted.get())).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| period(pool).map(|period| period.balance.settled.get())).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| period(pool).map(|period| period.balance.held.get())).collect::<Vec<_>>())
        .bind(pools.iter().map(|pool| pool.updated_at).collect::<Vec<_>>())
}

fn bind_events<'q>(statement: Statement<'q>, batch: &'q Batch<'_>) -> Statement<'q> {
    let events = batch.events.columns();
    statement.bind(events.shards).bind(events.counts).bind(events.seqs).bind(events.events).bind(events.thresholds)
}

fn bind_costs<'q>(statement: Statement<'q>, charges: &[&'q Charge]) -> Statement<'q> {
    let cost = |charge: &&Charge| charge.cost;
    statement
        .bind(charges.iter().map(|charge| cost(charge).map(|cost| cost.minor_units.get())).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| cost(charge).map(|cost| cost.currency.to_string())).collect::<Vec<_>>())
}

fn bind_marks<'q>(statement: Statement<'q>, pools: &[&'q Pool]) -> Result<Statement<'q>, Failure> {
    let marks = pools.iter().map(|pool| Some(&pool.marks).filter(|marks| !marks.is_empty()).map(serde_json::to_string).transpose());
    let marks = marks.collect::<Result<Vec<_>, _>>().map_err(|error| corrupt(format!("thresholds that are no JSON: {error}")))?;
    Ok(statement.bind(marks))
}

async fn update_charges(connection: &mut PgConnection, charges: &[&Charge]) -> Result<(), Failure> {
    if charges.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../sql/ledger/update_charges.sql"))
        .bind(charges.iter().map(|charge| shard_column(charge.spec.payer.shard())).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.spec.id.0).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.status.as_str()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.settled.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.refunded.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.debt.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.from_allowance.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.from_purchased.get()).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.period_start).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.late).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.settled_at).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.cost.map(|cost| cost.minor_units.get())).collect::<Vec<_>>())
        .bind(charges.iter().map(|charge| charge.cost.map(|cost| cost.currency.to_string())).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn put_periods(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(), Failure> {
    let changed = batch.state.changed.past_periods.iter();
    let periods: Vec<(&PeriodKey, &PoolPeriod)> = changed.filter_map(|key| batch.state.past_periods.get_key_value(key)).collect();
    if periods.is_empty() {
        return Ok(());
    }
    sqlx::query(include_str!("../sql/ledger/put_periods.sql"))
        .bind(periods.iter().map(|((key, _), _)| shard_column(key.payer.shard())).collect::<Vec<_>>())
        .bind(periods.iter().map(|((key, _), _)| is_org(key.payer)).collect::<Vec<_>>())
        .bind(periods.iter().map(|((key, _), _)| key.payer.tenant()).collect::<Vec<_>>())
        .bind(periods.iter().map(|((key, _), _)| key.provider.as_str()).collect::<Vec<_>>())
        .bind(periods.iter().map(|(_, period)| period.starts_at).collect::<Vec<_>>())
        .bind(periods.iter().map(|(_, period)| period.ends_at).collect::<Vec<_>>())
        .bind(periods.iter().map(|(_, period)| period.balance.granted.get()).collect::<Vec<_>>())
        .bind(periods.iter().map(|(_, period)| period.balance.settled.get()).collect::<Vec<_>>())
        .bind(periods.iter().map(|(_, period)| period.balance.held.get()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
