//! Decisions alone, nothing durable: `limits/take` against the least that could do it, and the check of three scopes against limitador,
//! both on the same Redis; a hot key from slices against limitador's memory; then races for one limit, in which nothing may be granted
//! above it.

use crate::{
    Plan,
    consume::ROLES,
    contenders::{Check, Contender, RACE_LIMIT},
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample, number},
    installation::{Installation, on_a_fresh_one},
    load::{self, Pace, Prepared},
    log,
    meter::Meter,
    office::Office,
    process::Process,
};
use anyhow::{Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{rc::Rc, time::Duration};
use uuid::Uuid;

const TAKE: &str = "limits/take, 64 connections";
const CHECK: &str = "three scopes, 64 connections";
const LEASED: &str = "a hot key, 64 callers";
const RACE: &str = "a race for one limit";
const CONNECTIONS: usize = 64;
/// Checks of the hot key in one request.
const HOT_TIMES: u32 = 256;
const RACE_TIME: Duration = Duration::from_secs(2);

const LIMITS: [&str; 3] = ["bench-second", "bench-minute", "bench-day"];
const CALLERS: usize = 50;
/// Whom the callers limit.
const LIMITED: usize = 2_000;
const USERS: usize = 400;
const USERS_PER_ORG: usize = 10;

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note("check: starting weir and what it is compared with");
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await
}

/// The servers in the order in which they are asked.
struct Stage {
    weir: Endpoint,
    bare: Endpoint,
    library: Endpoint,
    limitador: Endpoint,
    leased: Endpoint,
    in_memory: Endpoint,
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let stage = Stage::set(plan, installation).await?;
    for round in 0..plan.rounds {
        log::note(&format!("check: round {} of {}", round + 1, plan.rounds));
        for leg in order::<6>(round) {
            let (leg, mode, endpoint) = match leg {
                0 => (TAKE, "weir", &stage.weir),
                1 => (TAKE, "axum + EVALSHA", &stage.bare),
                2 => (CHECK, "weir's library", &stage.library),
                3 => (CHECK, "limitador", &stage.limitador),
                4 => (LEASED, "weir's library, leased", &stage.leased),
                _ => (LEASED, "limitador in memory", &stage.in_memory),
            };
            let sample = endpoint.closed(plan, mode, CONNECTIONS).await?;
            if sample.refused > 0 {
                bail!("{mode} did not allow {} requests, none of which reaches a limit", sample.refused);
            }
            report.add(leg, if leg == LEASED { sample.per_item(HOT_TIMES) } else { sample });
        }
        for (mode, endpoint) in [("weir's library", &stage.library), ("limitador", &stage.limitador)] {
            report.add(RACE, race(endpoint, mode, round).await?);
        }
    }
    let per_second = |sample: &Sample| Some(sample.per_second);
    report.ratio(TAKE, "requests/s, weir / axum + EVALSHA", ["weir", "axum + EVALSHA"], per_second, Goal::AtLeast(0.75));
    report.ratio(CHECK, "requests/s, weir's library / limitador", ["weir's library", "limitador"], per_second, Goal::AtLeast(2.5));
    let leased = "weir's library, leased";
    report.ratio(LEASED, "checks/s, weir's library / limitador in memory", [leased, "limitador in memory"], per_second, Goal::AtLeast(1.2));
    report.figure(LEASED, "Redis scripts a check", leased, |sample| sample.redis_scripts_each, Goal::AtMost(0.05));
    for (mode, goal) in [("weir's library", Goal::NeverAbove(0.0)), ("limitador", Goal::None)] {
        report.figure(RACE, &format!("granted above {RACE_LIMIT}, {mode}"), mode, |sample| sample.granted_above_limit, goal);
    }
    stage.weir.process.stop().await;
    Ok(())
}

impl Stage {
    async fn set(plan: &Plan, installation: &Installation) -> Result<Self> {
        let process = Process::start(installation, ROLES, &[])?;
        let takes = takes(&callers(installation, &process).await?)?;
        let to_bare = Rc::new(takes.iter().map(|take| take.to("/take")).collect());
        let (checks, hot) = (Rc::new(checks(1)?), Rc::new(checks(HOT_TIMES)?));
        let start = |contender: Contender, requests: &Rc<Vec<Prepared>>| {
            let process = contender.start(&plan.servers, &installation.name, &installation.data)?;
            anyhow::Ok(Endpoint::new(process, Rc::clone(requests)))
        };
        let redis = async || Meter::of_redis(&plan.servers).await;
        Ok(Self {
            weir: Endpoint::new(process, Rc::new(takes)).beside(redis().await?),
            bare: start(Contender::Bare, &to_bare)?.beside(redis().await?),
            library: start(Contender::Library, &checks)?.beside(redis().await?),
            limitador: start(Contender::Limitador, &checks)?.beside(redis().await?),
            leased: start(Contender::Leased, &hot)?.beside(Meter::of_redis_cluster(&plan.servers).await?),
            in_memory: start(Contender::LimitadorInMemory, &hot)?,
        })
    }
}

/// Keys that may take from three limits which nobody reaches.
async fn callers(installation: &Installation, process: &Process) -> Result<Vec<String>> {
    let office = Office::of(installation, process.address);
    for name in LIMITS {
        let limit = json!({"scope": "USER", "algorithm": "LEAKY_BUCKET", "capacity": 1_000_000_000, "leakRatePerSecond": 1_000_000});
        office.put(&format!("limits/{name}"), &limit).await?;
    }
    let mut keys = Vec::with_capacity(CALLERS);
    for _ in 0..CALLERS {
        keys.push(office.key(Uuid::new_v4(), &["limits:take"]).await?);
    }
    Ok(keys)
}

fn takes(keys: &[String]) -> Result<Vec<Prepared>> {
    let mut random = StdRng::seed_from_u64(3);
    let take = |number: usize| {
        let limited = format!("customer-{}", random.random_range(0..LIMITED));
        let body = json!({"limit": LIMITS, "key": limited, "amount": random.random_range(1..4_000)});
        Prepared::new("/api/v1/limits/take", &keys[number % keys.len()], body.to_string())
    };
    (0..LIMITED * 2).map(take).collect()
}

fn checks(times: u32) -> Result<Vec<Prepared>> {
    let orgs: Vec<Uuid> = (0..USERS / USERS_PER_ORG).map(|_| Uuid::new_v4()).collect();
    let check = |user: usize| {
        let org = orgs[user / USERS_PER_ORG].to_string();
        prepared(&Check { user: format!("user-{user}"), org, provider: "openai".to_owned(), race: false, times })
    };
    (0..USERS).map(check).collect()
}

fn prepared(check: &Check) -> Result<Prepared> {
    Prepared::new("/check", "none", serde_json::to_string(check)?)
}

/// All connections ask for one token after the other of a provider of which only so many may be had.
async fn race(endpoint: &Endpoint, mode: &str, round: usize) -> Result<Sample> {
    let org = Uuid::new_v4().to_string();
    let racers = (0..USERS).map(|user| {
        let provider = format!("race-{round}");
        prepared(&Check { user: format!("racer-{user}"), org: org.clone(), provider, race: true, times: 1 })
    });
    let racers = Rc::new(racers.collect::<Result<Vec<_>>>()?);
    let address = endpoint.process.address;
    let leg = load::Leg { address, connections: CONNECTIONS, pace: Pace::Closed, warm_up: Duration::ZERO, measured: RACE_TIME };
    let outcome = load::run(&leg, &racers, &Rc::default(), mode).await?;
    let granted = number(outcome.answered - outcome.refused);
    let limit = number(u64::try_from(RACE_LIMIT)?);
    if granted < limit {
        bail!("{mode} granted {granted} of {limit}: the race was not run to its end");
    }
    let per_second = number(outcome.answered) / RACE_TIME.as_secs_f64();
    Ok(Sample { per_second, granted_above_limit: Some(granted - limit), refused: outcome.refused, ..Sample::new(mode) })
}
