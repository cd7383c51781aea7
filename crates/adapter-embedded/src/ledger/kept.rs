//! The answers under idempotency keys beside their charges, page by page, for the audit.

use super::apply::load_charges;
use crate::{columns::from_json, database::failed};
use domain::ids::ChargeId;
use ports::{Result, ledger::KeptAnswer};
use sqlx::SqlitePool;
use std::collections::BTreeSet;
use uuid::Uuid;

const PAGE: u32 = 500;

#[derive(Debug)]
struct KeptRow {
    scope: String,
    key: String,
    charge_id: Uuid,
    outcome: String,
}

from_row!(KeptRow { scope, key, charge_id, outcome });

pub(super) async fn scan(readers: &SqlitePool, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
    let mut after = (String::new(), String::new());
    loop {
        // Answer and charge of one moment.
        let mut transaction = readers.begin().await.map_err(failed)?;
        let query = sqlx::query_as::<_, KeptRow>(include_str!("../../sql/scan_idempotency.sql")).bind(&after.0).bind(&after.1).bind(PAGE);
        let rows = query.fetch_all(&mut *transaction).await.map_err(failed)?;
        let ids: BTreeSet<ChargeId> = rows.iter().map(|row| ChargeId(row.charge_id)).collect();
        let charges = load_charges(&mut transaction, &ids).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = (last.scope.clone(), last.key.clone());
        for row in rows {
            let charge_id = ChargeId(row.charge_id);
            let charge = charges.iter().find(|charge| charge.spec.id == charge_id).cloned();
            let outcome = from_json("idempotency.outcome", &row.outcome).map_err(|error| error.to_string());
            visit(KeptAnswer { name: format!("{}\0{}", row.scope, row.key), charge_id, charge, outcome });
        }
    }
}
