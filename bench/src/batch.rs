//! Many events in a call, `consume/batch` and CloudEvents, against the rows of the ledger alone and against two statements per event.

use crate::{
    Plan,
    consume::ROLES,
    endpoint::Endpoint,
    figures::{Goal, Report, Sample},
    floor::{Floor, TWO_STATEMENTS},
    installation::{Installation, on_a_fresh_one},
    load::{Pace, Prepared, STAMP},
    log,
    meter::Meter,
    process::Process,
    users::{Notes, Users},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::rc::Rc;

/// Enough that the next batch is being read while one commits.
const CONNECTIONS: usize = 4;
/// Bodies that take turns.
const BODIES: usize = 400;
const BATCH: &str = "consume/batch";
const EVENTS: &str = "events";
const FLOOR: &str = "ledger's rows alone";

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note("batch: starting weir, making users");
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let process = Process::start(installation, ROLES, &[])?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let database = installation.database().await?;
    let floor = Floor::make(plan, database.clone(), &users.ids).await?;
    let endpoint = Endpoint::new(process, Rc::default()).beside(Meter::of_postgres(&database).await?);
    let mut bodies = Vec::new();
    for items in &plan.items {
        bodies.push((*items, batches(plan, &users, *items)?, events(plan, &users, *items)?));
    }
    for round in 0..plan.rounds {
        report.add(&leg(None), floor.two_statements().await?);
        for (items, batches, events) in &bodies {
            log::note(&format!("batch: round {} of {}, {items} items", round + 1, plan.rounds));
            let leg = leg(Some(*items));
            report.add(&leg, floor.insert(FLOOR, *items).await?);
            for (mode, requests) in [(BATCH, batches), (EVENTS, events)] {
                report.add(&leg, booked(plan, &endpoint, &database, mode, requests, *items).await?);
            }
        }
    }
    goals(plan, report);
    endpoint.process.stop().await;
    Ok(())
}

fn leg(items: Option<usize>) -> String {
    items.map_or_else(|| "one event in two statements".to_owned(), |items| format!("{items} items in a call"))
}

/// A call answers 200 whatever became of its items; the ledger's numbers say that each of them was booked.
async fn booked(plan: &Plan, endpoint: &Endpoint, pool: &PgPool, mode: &str, requests: &Rc<Vec<Prepared>>, items: usize) -> Result<Sample> {
    let before = (endpoint.sent(), events_written(pool).await?);
    let sample = endpoint.ask(plan, mode, requests, CONNECTIONS, Pace::Closed).await?;
    let (calls, written) = (endpoint.sent() - before.0, events_written(pool).await? - before.1);
    if sample.refused > 0 || written < i64::try_from(calls * items)? {
        bail!("{mode}: {calls} calls of {items} items became {written} events, {} calls were refused", sample.refused);
    }
    Ok(sample.per_item(u32::try_from(items)?))
}

pub async fn events_written(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar(include_str!("sql/count_events.sql")).fetch_one(pool).await?)
}

pub fn batches(plan: &Plan, users: &Users, items: usize) -> Result<Rc<Vec<Prepared>>> {
    let mut notes = Notes::new();
    let item = |tokens: i64, _| json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens, "metadata": {"note": notes.next()}});
    bodies(plan, users, items, "/api/v1/tokens/consume/batch", item, |items| json!({"items": items}))
}

fn events(plan: &Plan, users: &Users, items: usize) -> Result<Rc<Vec<Prepared>>> {
    let mut notes = Notes::new();
    let event = |tokens: i64, number: usize| {
        let data = json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens, "metadata": {"note": notes.next()}});
        let source = format!("/bench/{STAMP}");
        json!({"specversion": "1.0", "id": number.to_string(), "source": source, "type": "bench.tokens", "data": data})
    };
    bodies(plan, users, items, "/api/v1/events", event, Value::Array)
}

fn bodies(
    plan: &Plan,
    users: &Users,
    items: usize,
    path: &'static str,
    mut item: impl FnMut(i64, usize) -> Value,
    body: impl Fn(Vec<Value>) -> Value,
) -> Result<Rc<Vec<Prepared>>> {
    let mut bodies = Vec::with_capacity(BODIES);
    for number in 0..BODIES {
        let amounts = plan.amounts.iter().cycle().skip(number * items % plan.amounts.len());
        let items = amounts.take(items).enumerate().map(|(place, tokens)| item(*tokens, place)).collect();
        bodies.push(Prepared::new(path, &users.keys[number % users.keys.len()], body(items).to_string())?);
    }
    Ok(Rc::new(bodies))
}

fn goals(plan: &Plan, report: &mut Report) {
    let two_statements = report.values(&leg(None), TWO_STATEMENTS, &|sample: &Sample| sample.wal_bytes_each);
    for items in &plan.items {
        let leg = leg(Some(*items));
        for mode in [BATCH, EVENTS] {
            let per_second = |sample: &Sample| Some(sample.per_second);
            report.ratio(&leg, &format!("events/s, {mode} / {FLOOR}"), [mode, FLOOR], per_second, Goal::AtLeast(0.6));
            let logged = report.values(&leg, mode, &|sample: &Sample| sample.wal_bytes_each);
            let ratios = logged.iter().zip(&two_statements).map(|(own, two)| own / two).collect();
            report.push(&leg, &format!("log of Postgres per event, {mode} / {TWO_STATEMENTS}"), ratios, Goal::AtMost(0.75));
        }
    }
}
