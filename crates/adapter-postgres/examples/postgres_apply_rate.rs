//! How fast batches of consumes are applied, by batch size: `WEIR__POSTGRES__URL=… cargo run --release --example postgres_apply_rate [seconds per leg]`.
//! Works in the named database, which should be a fresh one: its rows stay.

use adapter_postgres::{Postgres, PostgresSettings};
use domain::{
    amount::Tokens,
    charge::{ChargeSpec, Metadata},
    ids::{ChargeId, Model, Payer, Provider, UserId},
    ledger::{Command, Request},
    pool::PoolKey,
    trace_parent::TraceParent,
};
use ports::{
    Clock,
    ledger::{Claim, Idempotency, IdempotencyKey, Ledger, LedgerRequest},
};
use std::{
    error::Error,
    time::{Duration, Instant},
};
use uuid::Uuid;

const USERS: usize = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("WEIR__POSTGRES__URL")?;
    let leg = Duration::from_secs(std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?);
    let postgres = Postgres::connect(&PostgresSettings { url, max_connections: 8 }).await?;
    postgres.migrate().await?;
    let users: Vec<UserId> = (0..USERS).map(|_| UserId(Uuid::new_v4())).collect();
    let provider = Provider::parse("openai")?;
    for some in users.chunks(500) {
        let grants: Vec<LedgerRequest> = some.iter().map(|user| grant(*user, &provider)).collect::<Result<_, _>>()?;
        postgres.apply(&grants).await?;
    }
    println!("batch  keyed  requests/s  ms/batch  WAL bytes/request");
    let model = Model::parse("gpt-4o")?;
    for keyed in [false, true] {
        for size in [1, 32, 128, 512] {
            let mut next = users.iter().cycle();
            let (began, wal, mut batches) = (Instant::now(), wal_position(&postgres).await?, 0u32);
            while began.elapsed() < leg {
                let batch: Vec<LedgerRequest> = next.by_ref().take(size).map(|user| consume(*user, &provider, &model, keyed)).collect();
                postgres.apply(&batch).await?;
                batches += 1;
            }
            let requests = f64::from(batches) * f64::from(u32::try_from(size)?);
            let seconds = began.elapsed().as_secs_f64();
            let wal = (wal_position(&postgres).await? - wal) / requests;
            println!("{size:5}  {keyed:5}  {:10.0}  {:8.2}  {wal:6.0}", requests / seconds, 1_000.0 * seconds / f64::from(batches));
        }
    }
    postgres.close().await;
    Ok(())
}

fn grant(user: UserId, provider: &Provider) -> Result<LedgerRequest, Box<dyn Error>> {
    let pool = PoolKey { payer: Payer::User(user), provider: provider.clone() };
    let command = Command::Grant { pool, tokens: Tokens::new(1 << 50)?, reason: "measurement".into() };
    let request = Request { command, now: Clock::System.now(), allowance_cap: None, cost: None };
    Ok(LedgerRequest { request, shard: Payer::User(user).shard(), idempotency: None, trace_parent: None, seen: Vec::new() })
}

fn consume(user_id: UserId, provider: &Provider, model: &Model, keyed: bool) -> LedgerRequest {
    let (payer, now) = (Payer::User(user_id), Clock::System.now());
    let spec = ChargeSpec {
        id: ChargeId::new(payer.shard(), now),
        payer,
        user_id,
        key_id: None,
        provider: provider.clone(),
        model: Some(model.clone()),
        metadata: Metadata::new(),
    };
    let key = || IdempotencyKey { scope: format!("user:{user_id}|POST /api/v1/tokens/consume"), key: Uuid::new_v4().to_string() };
    let idempotency = keyed.then(|| Idempotency { key: key(), fingerprint: [7; 32], claim: Claim::Completes, context: Vec::new() });
    let command = Command::Consume { spec, tokens: Tokens::new(1).unwrap_or(Tokens::ZERO) };
    let request = Request { command, now, allowance_cap: None, cost: None };
    LedgerRequest { request, shard: payer.shard(), idempotency, trace_parent: Some(TraceParent::generate()), seen: Vec::new() }
}

async fn wal_position(postgres: &Postgres) -> Result<f64, Box<dyn Error>> {
    let position = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8";
    Ok(sqlx::query_scalar(position).fetch_one(postgres.pool()).await?)
}
