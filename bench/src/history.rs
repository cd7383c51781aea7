//! Whether a consume costs more when there is a long history: charges, events and today's answers, many of each against ten thousand.

use crate::{
    Plan, consume,
    endpoint::{Endpoint, order},
    events::Generator,
    figures::{Goal, Report, Sample},
    installation::{Installation, on_two_fresh_ones},
    log,
};
use adapter_postgres::{PackedEvent, PackedRows};
use anyhow::{Context, Result};
use chrono::Utc;
use domain::{
    event::EventType,
    ids::{Payer, SHARDS, Shard, UserId},
};
use sqlx::PgPool;
use uuid::Uuid;

const LEG: &str = "consume behind a history, 64 connections";
const CONNECTIONS: usize = 64;
const SHORT: i64 = 10_000;
const ROWS_PER_STATEMENT: i64 = 250_000;

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    on_two_fresh_ones(plan, async |[short, long]| measure(plan, short, long, report).await).await
}

async fn measure(plan: &Plan, short: &Installation, long: &Installation, report: &mut Report) -> Result<()> {
    let names = [SHORT, plan.history_rows].map(|rows| format!("{rows} charges"));
    let [short_name, long_name] = names.each_ref().map(String::as_str);
    let short = start(plan, short, SHORT, short_name).await?;
    let long = start(plan, long, plan.history_rows, long_name).await?;
    for round in 0..plan.rounds {
        log::note(&format!("history: round {} of {}", round + 1, plan.rounds));
        for leg in order::<2>(round) {
            let (endpoint, mode) = if leg == 0 { (&short, short_name) } else { (&long, long_name) };
            report.add(LEG, endpoint.closed(plan, mode, CONNECTIONS).await?);
        }
    }
    // The time of a request is the inverse of the rate.
    let name = format!("time of a consume, {long_name} / {short_name}");
    report.ratio(LEG, &name, [short_name, long_name], |sample: &Sample| Some(sample.per_second), Goal::AtMost(1.1));
    short.process.stop().await;
    long.process.stop().await;
    Ok(())
}

async fn start(plan: &Plan, installation: &Installation, rows: i64, name: &str) -> Result<Endpoint> {
    log::note(&format!("history: starting weir with {name}"));
    let (endpoint, users) = consume::start(plan, installation, &[]).await?;
    // The first answers are the pattern of the others.
    endpoint.closed(plan, name, CONNECTIONS).await?;
    write(&installation.database().await?, &users.ids, &plan.amounts, rows).await.context("writing the history")?;
    Ok(endpoint)
}

async fn write(database: &PgPool, users: &[Uuid], amounts: &[i64], rows: i64) -> Result<()> {
    let (shards, payers) = payers(users);
    let mut from = 0;
    while from < rows {
        let count = ROWS_PER_STATEMENT.min(rows - from);
        let charges = sqlx::query(include_str!("sql/history_charges.sql")).bind(from).bind(rows).bind(&payers);
        charges.bind(count).bind(&shards).execute(database).await?;
        from += count;
    }
    let (events_in_row, events) = full_row(amounts)?;
    let rows_in_shard = rows / i64::from(SHARDS) / i64::from(events_in_row) + 1;
    let mut transaction = database.begin().await?;
    let outbox = sqlx::query(include_str!("sql/history_events.sql")).bind(events_in_row).bind(events).bind(rows_in_shard);
    outbox.execute(&mut *transaction).await?;
    let heads = sqlx::query(include_str!("sql/history_heads.sql")).bind(rows_in_shard * i64::from(events_in_row));
    heads.execute(&mut *transaction).await?;
    transaction.commit().await?;
    sqlx::query(include_str!("sql/history_answers.sql")).bind(rows).execute(database).await?;
    for table in ["VACUUM ANALYZE charge", "VACUUM ANALYZE outbox", "VACUUM ANALYZE idempotency"] {
        sqlx::query(table).execute(database).await?;
    }
    Ok(())
}

/// The users by shard, and somebody for each shard in which there is none.
fn payers(users: &[Uuid]) -> (Vec<i16>, Vec<Uuid>) {
    let shard_of = |user: Uuid| Payer::User(UserId(user)).shard();
    let mut payers = users.to_vec();
    for shard in Shard::all() {
        if payers.iter().all(|payer| shard_of(*payer) != shard) {
            payers.extend(std::iter::repeat_with(Uuid::new_v4).find(|user| shard_of(*user) == shard));
        }
    }
    (payers.iter().map(|payer| i16::from(shard_of(*payer).index())).collect(), payers)
}

/// A row of the outbox that has no room for another event, and how many it holds.
fn full_row(amounts: &[i64]) -> Result<(i16, Vec<u8>)> {
    let mut generator = Generator::new(amounts);
    let mut rows = PackedRows::default();
    let shard = Shard::new(0)?;
    for seq in 1.. {
        let row = generator.next_row(Utc::now())?;
        let trace_parent = row.trace_parent.as_deref().map(str::parse).transpose()?;
        rows.push(shard, seq, EventType::ChargeSettled, &PackedEvent { trace_parent, seen: row.seen, payload: row.payload });
        let columns = rows.columns();
        if let ([count, _, ..], [events, ..]) = (columns.counts.as_slice(), columns.events.as_slice()) {
            return Ok((*count, events.to_vec()));
        }
    }
    anyhow::bail!("a row of the outbox never fills")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_payer_of_its_own() {
        let users: Vec<Uuid> = (0..40).map(|_| Uuid::new_v4()).collect();
        let (shards, payers) = payers(&users);
        assert_eq!(&payers[..40], users.as_slice());
        assert!((0..i16::from(SHARDS)).all(|shard| shards.contains(&shard)));
        assert!(shards.iter().zip(&payers).all(|(shard, payer)| i16::from(Payer::User(UserId(*payer)).shard().index()) == *shard));
    }

    #[test]
    fn the_pattern_of_the_outbox_is_a_row_of_several_events() {
        let (count, events) = full_row(&[100, 2_000]).unwrap();
        assert!(count > 3 && events.len() > 1_000, "{count} events in {} bytes", events.len());
    }
}
