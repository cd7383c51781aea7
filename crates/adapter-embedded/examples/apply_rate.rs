//! Durable consumes per second and processor time of each by batch size, the time to open an empty folder, and resident memory:
//! `cargo run --release -p adapter-embedded --example apply_rate [seconds per batch size]`.
#![allow(clippy::unwrap_used, reason = "a measurement ends at the first failure")]

use adapter_embedded::Embedded;
use chrono::Utc;
use domain::{
    amount::Tokens,
    charge::{ChargeSpec, Metadata},
    ids::{ChargeId, Payer, Provider, UserId},
    ledger::{Command, Outcome, Request},
    pool::PoolKey,
    trace_parent::TraceParent,
};
use ports::ledger::{Claim, Idempotency, IdempotencyKey, Ledger, LedgerAnswer, LedgerRequest};
use std::{
    env, fs,
    time::{Duration, Instant},
};
use uuid::Uuid;

const PAYERS: usize = 500;

#[tokio::main]
async fn main() {
    let seconds = env::args().nth(1).map_or(4, |seconds| seconds.parse().unwrap());
    let opening = Instant::now();
    let embedded = Embedded::in_temp().await.unwrap();
    println!("opened in {:?}, {} resident", opening.elapsed(), resident());
    let payers: Vec<Payer> = (0..PAYERS).map(|_| Payer::User(UserId(Uuid::new_v4()))).collect();
    let grants: Vec<LedgerRequest> = payers.iter().map(|payer| grant(*payer)).collect();
    embedded.apply(&grants).await.unwrap();
    for size in [1, 64, 512] {
        let mut turn = payers.iter().cycle();
        let (start, cpu, mut done) = (Instant::now(), cpu_seconds(), 0_u32);
        while start.elapsed() < Duration::from_secs(seconds) {
            let batch: Vec<LedgerRequest> = turn.by_ref().take(size).map(|payer| consume(*payer)).collect();
            let answers = embedded.apply(&batch).await.unwrap();
            assert!(answers.iter().all(|answer| matches!(answer, LedgerAnswer::Decided(Outcome::Charged { .. }))));
            done += u32::try_from(answers.len()).unwrap();
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        let cpu_micros = (cpu_seconds() - cpu) * 1e6 / f64::from(done);
        println!("batches of {size:>3}: {rate:>6.0} durable consumes/s, {cpu_micros:>4.0} µs of processor each, {} resident", resident());
    }
    let reading = Instant::now();
    let snapshot = embedded.snapshot(payers[0].shard()).await.unwrap();
    println!("a shard of {} events read and decoded in {:?}", snapshot.events.len(), reading.elapsed());
}

fn grant(payer: Payer) -> LedgerRequest {
    let command = Command::Grant { pool: pool(payer), tokens: Tokens::new(1 << 40).unwrap(), reason: "measurement".into() };
    request(payer, command, None)
}

/// As the token service asks: with an idempotency key and a trace.
fn consume(payer: Payer) -> LedgerRequest {
    let spec = ChargeSpec {
        id: ChargeId::new(payer.shard(), Utc::now()),
        payer,
        user_id: UserId(payer.tenant()),
        key_id: None,
        provider: pool(payer).provider,
        model: None,
        metadata: Metadata::new(),
    };
    let key = IdempotencyKey { scope: format!("user:{}|POST /api/v1/tokens/consume", payer.tenant()), key: spec.id.to_string() };
    let idempotency = Idempotency { key, fingerprint: [7; 32], claim: Claim::Completes, context: Vec::new() };
    request(payer, Command::Consume { spec, tokens: Tokens::new(7).unwrap() }, Some(idempotency))
}

fn request(payer: Payer, command: Command, idempotency: Option<Idempotency>) -> LedgerRequest {
    let request = Request { command, now: Utc::now(), allowance_cap: None, cost: None };
    LedgerRequest { request, shard: payer.shard(), idempotency, trace_parent: Some(TraceParent::generate()), seen: Vec::new() }
}

fn pool(payer: Payer) -> PoolKey {
    PoolKey { payer, provider: Provider::parse("openai").unwrap() }
}

/// User and system time of this process; the kernel counts in hundredths of a second.
fn cpu_seconds() -> f64 {
    let status = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = status.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11..13).unwrap_or_default().iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or_else(|| "unknown".into(), |size| size.trim().to_owned())
}
