//! What the clients asked for and were told, and whether Weir keeps to it.

use crate::load::Api;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::HashMap;

/// Who pays: an org, through one of its members.
#[derive(Clone)]
pub struct Payer {
    pub user: String,
    pub org: String,
    /// Tokens left at each provider before the first request.
    pub had: HashMap<&'static str, i64>,
}

/// One request, which was repeated under its key until it was answered.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub payer: usize,
    pub provider: &'static str,
    pub tokens: i64,
    /// From the answer; a request without one was given up.
    pub charge: Option<String>,
}

/// By idempotency key, which each charge repeats in its metadata.
pub type Journal = HashMap<String, Ticket>;

/// Every request is one charge with its amount and the id of its answer, there is no other charge, and the balances are what is left.
///
/// # Errors
/// With the first request, charge or balance that is not so.
pub async fn holds(journal: &Journal, payers: &[Payer], api: &Api) -> Result<()> {
    let mut booked: HashMap<String, u64> = HashMap::new();
    for (number, payer) in payers.iter().enumerate() {
        for charge in charges(api, &payer.org).await? {
            let key = charge["metadata"]["key"].as_str().context("a charge that nobody asked for")?;
            let ticket = journal.get(key).with_context(|| format!("charge of {key}, which nobody asked for"))?;
            *booked.entry(key.to_owned()).or_default() += 1;
            let settled = charge["settled"].as_i64();
            ensure!(ticket.payer == number, "request {key} was paid by another org: {charge}");
            ensure!(settled == Some(ticket.tokens), "request {key} asked for {} tokens and {charge} was booked", ticket.tokens);
            if let Some(told) = &ticket.charge {
                ensure!(
                    charge["chargeId"].as_str() == Some(told),
                    "request {key} was answered with charge {told}, and {charge} was booked"
                );
            }
        }
    }
    for (key, ticket) in journal {
        let times = booked.get(key).copied().unwrap_or_default();
        ensure!(times <= 1, "request {key} was booked {times} times");
        ensure!(times == 1 || ticket.charge.is_none(), "request {key} was acknowledged as {ticket:?} and is not in the ledger");
    }
    balances(journal, &booked, payers, api).await
}

async fn balances(journal: &Journal, booked: &HashMap<String, u64>, payers: &[Payer], api: &Api) -> Result<()> {
    for (number, payer) in payers.iter().enumerate() {
        for (provider, had) in &payer.had {
            let spends =
                journal.iter().filter(|(key, ticket)| ticket.payer == number && ticket.provider == *provider && booked.contains_key(*key));
            let spent: i64 = spends.map(|(_, ticket)| ticket.tokens).sum();
            let has = api.remaining(&payer.org, provider).await?;
            ensure!(spent <= *had, "org {} had {had} tokens at {provider} and spent {spent}", payer.org);
            ensure!(has == had - spent, "org {} had {had} tokens at {provider}, spent {spent} and has {has}", payer.org);
        }
    }
    Ok(())
}

async fn charges(api: &Api, org: &str) -> Result<Vec<Value>> {
    let mut charges = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/api/v1/tokens/charges?orgId={org}&limit=200{cursor}")).await?;
        let Some(items) = page["items"].as_array() else { bail!("a page without items: {page}") };
        charges.extend(items.iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(charges),
        }
    }
}
