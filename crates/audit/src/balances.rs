//! I1: what the charges hold and settled, less what was refunded, is what the balances say, and no balance is below zero; the part nothing
//! covered is debt.

use crate::{Scope, budgets, fold::Folded, picture::Picture, report::Findings};
use chrono::{DateTime, Utc};
use domain::{
    charge::{Charge, ChargeStatus},
    pool::{Balance, Pool, PoolKey},
};
use std::collections::HashMap;

/// Parts of charges that came from one balance.
#[derive(Clone, Copy, Default)]
struct Parts {
    held: i128,
    settled: i128,
}

/// What the charges of one pool add up to. The key `None` is the purchased balance.
#[derive(Default)]
struct Charged {
    parts: HashMap<Option<DateTime<Utc>>, Parts>,
    /// Less what was refunded.
    settled: i128,
}

impl Charged {
    fn add(&mut self, charge: &Charge) {
        self.settled += i128::from(charge.net().get());
        let back = charge.returned();
        let allowance = charge.from_allowance.saturating_sub(back.allowance);
        let sources = [(charge.period_start, allowance), (None, charge.from_purchased.saturating_sub(back.purchased))];
        for (balance, amount) in sources.into_iter().filter(|(_, amount)| !amount.is_zero()) {
            let parts = self.parts.entry(balance).or_default();
            match charge.status {
                ChargeStatus::Held => parts.held += i128::from(amount.get()),
                ChargeStatus::Settled | ChargeStatus::Refunded => parts.settled += i128::from(amount.get()),
                ChargeStatus::Released | ChargeStatus::Expired => {}
            }
        }
    }
}

pub(crate) fn check(picture: &Picture, folded: &Folded, scope: &Scope, findings: &mut Findings) {
    let mut charged: HashMap<PoolKey, Charged> = HashMap::new();
    for charge in picture.snapshot.charges.iter().filter(|charge| scope.covers_payer(charge.spec.payer)) {
        let key = PoolKey { payer: charge.spec.payer, provider: charge.spec.provider.clone() };
        charged.entry(key).or_default().add(charge);
    }
    for pool in picture.snapshot.pools.iter().filter(|pool| scope.covers_payer(pool.key.payer)) {
        let of_pool = charged.remove(&pool.key).unwrap_or_default();
        check_pool(picture, folded, pool, &of_pool, findings);
    }
    budgets::check_amounts(picture, scope, findings);
    for (key, of_pool) in charged {
        let difference = picture.about_pool(&key, "pool").values("a pool for its charges", format!("none; {} settled", of_pool.settled));
        findings.report(difference);
    }
}

fn check_pool(picture: &Picture, folded: &Folded, pool: &Pool, charged: &Charged, findings: &mut Findings) {
    let balances = balances_of(picture, pool);
    findings.checked(balances.len());
    let mut taken = i128::from(pool.debt.get());
    for (source, balance) in &balances {
        let parts = charged.parts.get(source).copied().unwrap_or_default();
        taken += i128::from(balance.settled.get());
        let mut report = |what: &str, expected: String, found: String| {
            let subject = format!("{what} of the {} balance", name_of(*source));
            findings.report(picture.about_pool(&pool.key, &subject).values(expected, found));
        };
        if !balance.is_consistent() {
            let rest = i128::from(balance.granted.get()) - i128::from(balance.settled.get()) - i128::from(balance.held.get());
            report("remaining", "not below 0".into(), rest.to_string());
        }
        if i128::from(balance.held.get()) != parts.held {
            report("held", format!("{} held by charges", parts.held), balance.held.to_string());
        }
        // More than the charges took is paid debt; the pool's sum below proves it.
        if i128::from(balance.settled.get()) < parts.settled {
            report("settled", format!("at least {} taken by charges", parts.settled), balance.settled.to_string());
        }
        if let Some(granted) = granted_by_events(folded, &pool.key, *source)
            && granted != balance.granted
        {
            report("granted", format!("{granted} granted by events"), balance.granted.to_string());
        }
    }
    let expected = charged.settled + folded.granted_anew(&pool.key);
    if taken != expected {
        let expected = format!("{expected} settled by charges less refunds");
        findings.report(picture.about_pool(&pool.key, "settled of all balances plus debt").values(expected, taken));
    }
}

/// Every balance of the pool under its period's start, the purchased one under `None`.
fn balances_of(picture: &Picture, pool: &Pool) -> Vec<(Option<DateTime<Utc>>, Balance)> {
    let past = picture.snapshot.past_periods.iter().filter(|(key, _)| *key == pool.key).map(|(_, period)| period);
    let periods = past.chain(pool.current.as_ref()).map(|period| (Some(period.starts_at), period.balance));
    periods.chain([(None, pool.purchased)]).collect()
}

fn granted_by_events(folded: &Folded, key: &PoolKey, source: Option<DateTime<Utc>>) -> Option<domain::amount::Tokens> {
    let pool = folded.state.pools.get(key)?;
    let Some(starts_at) = source else { return Some(pool.purchased.granted) };
    let current = pool.current.as_ref().filter(|period| period.starts_at == starts_at);
    current.or_else(|| folded.state.past_periods.get(&(key.clone(), starts_at))).map(|period| period.balance.granted)
}

fn name_of(source: Option<DateTime<Utc>>) -> String {
    source.map_or_else(|| "purchased".to_owned(), |start| format!("{} allowance", start.format("%Y-%m-%dT%H:%M:%SZ")))
}
