//! One org that everybody spends for, against ten thousand: a hot pool must not hold up its requests.

use crate::{
    Plan,
    consume::ROLES,
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample},
    installation::{Installation, on_a_fresh_one},
    load::{Pace, Prepared},
    log,
    meter::Meter,
    office::Office,
    process::Process,
    users::Notes,
};
use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use std::rc::Rc;
use uuid::Uuid;

const LEG: &str = "consume for orgs, 64 connections";
const CONNECTIONS: usize = 64;
const HOT: &str = "one org";
const MANY: &str = "many orgs";
/// People who spend. Each has made its part of the orgs, and all are members of the first.
const PEOPLE: usize = 100;
const AT_A_TIME: usize = 16;

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note(&format!("tenants: starting weir, making {} orgs", plan.orgs));
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let process = Process::start(installation, ROLES, &[])?;
    let (keys, orgs) = make_orgs(plan, &Office::of(installation, process.address)).await.context("making orgs")?;
    let many = consumes(plan, &keys, &orgs)?;
    let hot = consumes(plan, &keys, &orgs[..1])?;
    let meter = Meter::of_postgres(&installation.database().await?).await?;
    let endpoint = Endpoint::new(process, many).beside(meter);
    // Buckets and roles of a payer are looked up when it is first seen; that is not what is measured.
    while endpoint.sent() < orgs.len() {
        endpoint.closed(plan, MANY, CONNECTIONS).await?;
    }
    for round in 0..plan.rounds {
        log::note(&format!("tenants: round {} of {}", round + 1, plan.rounds));
        for leg in order::<2>(round) {
            let (mode, requests) = if leg == 0 { (HOT, &hot) } else { (MANY, &endpoint.requests) };
            let sample = endpoint.ask(plan, mode, requests, CONNECTIONS, Pace::Closed).await?;
            if sample.refused > 0 {
                bail!("{} spends for {mode} were refused", sample.refused);
            }
            report.add(LEG, sample);
        }
    }
    let name = format!("requests/s, one org / {} orgs", plan.orgs);
    report.ratio(LEG, &name, [HOT, MANY], |sample: &Sample| Some(sample.per_second), Goal::AtLeast(0.8));
    endpoint.process.stop().await;
    Ok(())
}

/// The keys of their members, with limits that are never reached, and the orgs, with pools that never run dry. Org n is one of those of
/// the person n % [`PEOPLE`].
async fn make_orgs(plan: &Plan, office: &Office<'_>) -> Result<(Vec<String>, Vec<Uuid>)> {
    for (name, scope) in [("user-default", "USER"), ("org-default", "ORG")] {
        let limit = json!({"scope": scope, "algorithm": "LEAKY_BUCKET", "capacity": 1_000_000_000, "leakRatePerSecond": 1_000_000_000});
        office.put(&format!("limits/{name}"), &limit).await?;
    }
    let people: Vec<Uuid> = (0..PEOPLE).map(|_| Uuid::new_v4()).collect();
    let key = |person: &Uuid| office.key(*person, &["orgs:manage", "tokens:consume"]);
    let keys: Vec<String> = stream::iter(people.iter().map(key)).buffered(AT_A_TIME).try_collect().await?;
    let org = async |number: usize| {
        let name = json!({"name": format!("org {number}")});
        let org: Value = office.send_as(&keys[number % PEOPLE], Method::POST, "/api/v1/orgs", &name).await?;
        let org: Uuid = org["orgId"].as_str().context("a new org's answer has no orgId")?.parse()?;
        anyhow::Ok(org)
    };
    let orgs: Vec<Uuid> = stream::iter((0..plan.orgs).map(org)).buffered(AT_A_TIME).try_collect().await?;
    log::note("tenants: orgs made, filling their pools");
    let grant = |org: &Uuid| office.grant("orgId", *org);
    stream::iter(orgs.iter().map(grant)).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
    for person in &people[1..] {
        let member = format!("/api/v1/orgs/{}/members/{person}", orgs[0]);
        office.send_as(&keys[0], Method::PUT, &member, &json!({"role": "MEMBER"})).await?;
    }
    Ok((keys, orgs))
}

fn consumes(plan: &Plan, keys: &[String], orgs: &[Uuid]) -> Result<Rc<Vec<Prepared>>> {
    let mut notes = Notes::new();
    let consume = |number: usize| {
        let (org, tokens) = (orgs[number % orgs.len()], plan.amounts[number % plan.amounts.len()]);
        let note = json!({"note": notes.next()});
        let body = json!({"orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": tokens, "metadata": note});
        Ok(Prepared::new("/api/v1/tokens/consume", &keys[number % PEOPLE], body.to_string())?.keyed())
    };
    Ok(Rc::new((0..plan.orgs).map(consume).collect::<Result<_>>()?))
}
