//! The answers under idempotency keys beside their charges, page by page, for the audit.

use super::{Failure, answers, load::load_charges};
use crate::{Postgres, shard::shard_of};
use chrono::NaiveDate;
use domain::{
    charge::Charge,
    ids::{ChargeId, Shard},
};
use ports::{Result, ledger::KeptAnswer};
use sqlx::FromRow;
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

const PAGE: i64 = 1_000;

#[derive(FromRow)]
struct KeptRow {
    name: Uuid,
    day: NaiveDate,
    shard: i16,
    charge_id: Uuid,
    outcome: String,
}

pub(super) async fn scan(postgres: &Postgres, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<(), Failure> {
    let mut after = (Uuid::nil(), NaiveDate::default());
    loop {
        let (rows, charges) = read_page(postgres, after).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = (last.name, last.day);
        for row in rows {
            let charge_id = ChargeId(row.charge_id);
            let charge = charges.get(&charge_id).cloned();
            let outcome = answers::from_text(&row.outcome, charge.as_ref()).map_err(|error| error.to_string());
            visit(KeptAnswer { name: row.name.to_string(), charge_id, charge, outcome });
        }
    }
}

/// Answers and their charges of one moment.
async fn read_page(postgres: &Postgres, after: (Uuid, NaiveDate)) -> Result<(Vec<KeptRow>, HashMap<ChargeId, Charge>), Failure> {
    let mut transaction = postgres.pool.begin_with(include_str!("../sql/ledger/begin_snapshot.sql")).await?;
    sqlx::query(include_str!("../sql/ledger/allow_long_reads.sql")).execute(&mut *transaction).await?;
    let statement = sqlx::query_as(include_str!("../sql/ledger/scan_claims.sql")).bind(after.0).bind(after.1).bind(PAGE);
    let rows: Vec<KeptRow> = statement.fetch_all(&mut *transaction).await?;
    let place = |row: &KeptRow| Ok((shard_of(row.shard)?, ChargeId(row.charge_id)));
    let ids: BTreeSet<(Shard, ChargeId)> = rows.iter().map(place).collect::<Result<_>>()?;
    let charges = load_charges(&mut transaction, &ids).await?;
    transaction.rollback().await?;
    Ok((rows, charges.into_iter().map(|charge| (charge.spec.id, charge)).collect()))
}
