//! Purchases: from the request until the saga is at its end, with a payment processor that answers at once.

use crate::{
    Plan,
    consume::ROLES,
    figures::{Goal, Report, Sample, number},
    installation::{Installation, on_a_fresh_one},
    load, log,
    office::Office,
    process::Process,
};
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

const LEG: &str = "purchase until completed";
/// People who buy at the same time, one purchase after the other.
const BUYERS: usize = 8;
const LOOK_EVERY: Duration = Duration::from_millis(2);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const STUBS: [&str; 4] = ["QWEN", "GEMINI", "OPENAI", "PAYMENT"];

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note("purchase: starting weir");
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await?;
    report.figure(LEG, "p99, µs", "weir", Sample::p99, Goal::AtMost(100_000.0));
    Ok(())
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let stubs: Vec<String> = STUBS.iter().map(|stub| format!("WEIR__STUBS__{stub}__LISTEN")).collect();
    let stubs: Vec<(&str, &str)> = stubs.iter().map(|variable| (variable.as_str(), "127.0.0.1:0")).collect();
    let process = Process::start(installation, &format!("{ROLES},provider-stubs"), &stubs)?;
    let office = Office::of(installation, process.address);
    office.put("money", &json!({"currency": "EUR", "minorUnitDigits": 2})).await?;
    office.put("plans/pack", &json!({"provider": "openai", "tokens": 1_000, "priceMinorUnits": 999})).await?;
    let keys = try_join_all((0..BUYERS).map(|_| office.key(Uuid::new_v4(), &[]))).await?;
    for round in 0..plan.rounds {
        log::note(&format!("purchase: round {} of {}", round + 1, plan.rounds));
        buy_for(&office, &keys, plan.warm_up).await?;
        let (before, since) = (process.cpu_micros()?, Instant::now());
        let bought = buy_for(&office, &keys, plan.measured).await?;
        let took = since.elapsed();
        let mut latencies = load::histogram()?;
        bought.iter().for_each(|took| latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
        let count = number(u64::try_from(bought.len())?);
        report.add(
            LEG,
            Sample {
                per_second: count / took.as_secs_f64(),
                p50_micros: Some(latencies.value_at_quantile(0.5)),
                p99_micros: Some(latencies.value_at_quantile(0.99)),
                cpu_micros_each: Some(number(process.cpu_micros()? - before) / count.max(1.0)),
                ..Sample::new("weir")
            },
        );
    }
    process.stop().await;
    Ok(())
}

/// How long each purchase took.
async fn buy_for(office: &Office<'_>, keys: &[String], time: Duration) -> Result<Vec<Duration>> {
    let until = Instant::now() + time;
    let buyer = async |key: &String| {
        let mut took = Vec::new();
        while Instant::now() < until {
            took.push(buy(office, key).await?);
        }
        anyhow::Ok(took)
    };
    Ok(try_join_all(keys.iter().map(buyer)).await?.into_iter().flatten().collect())
}

async fn buy(office: &Office<'_>, key: &str) -> Result<Duration> {
    let since = Instant::now();
    let purchase = office.send_as(key, Method::POST, "/api/v1/tokens/purchase", &json!({"planId": "pack"})).await?;
    let saga = format!("/api/v1/tokens/sagas/{}", purchase["sagaId"].as_str().context("a purchase without sagaId")?);
    loop {
        let saga = office.send_as(key, Method::GET, &saga, &Value::Null).await?;
        match saga["status"].as_str() {
            Some("COMPLETED") => return Ok(since.elapsed()),
            Some("FAILED") | None => bail!("a purchase failed: {saga}"),
            Some(_) if since.elapsed() > ENDED_WITHIN => bail!("a purchase does not end: {saga}"),
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
