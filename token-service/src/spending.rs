//! The steps that consume and reserve share: ask the buckets, then the ledger, and give back what led to nothing.

use crate::{
    buckets::{Asked, Taken, owners_of},
    counters, error,
    idempotency::Keyed,
    payer::Spend,
    rate_record::RateRecord,
    refusals,
    service::Service,
};
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    bucket::{Ask, HoldSlot},
    charge::{Charge, ChargeStatus},
    defect::{Defect, is_back},
    ids::ChargeId,
    ledger::Outcome,
    settings::Settings,
};
use futures::future::join_all;
use ports::{
    accounts::SpendFacts,
    ledger::{LedgerAnswer, LedgerRequest, StoredAnswer},
    rate_limits::{Take, applicable},
};
use service_kit::problem::Problem;

pub enum Admission {
    /// The amount is in every bucket.
    Admitted(Taken),
    /// The buckets would refuse, but the request was done before.
    Done(StoredAnswer),
}

/// All buckets at once, all or nothing; with a slot where the request is a hold. A request that was done before is never refused by them.
pub async fn admit(service: &Service, spend: &Spend, hold: Option<HoldSlot>, keyed: Option<&Keyed>) -> Result<Admission, Problem> {
    let Take { buckets, ask } = asking(&service.settings.current(), spend, hold);
    judge(service, spend, keyed, service.buckets.take(buckets, ask).await).await
}

/// As [`admit`] for many that are no holds, in their order, with one call to the buckets.
pub async fn admit_all(service: &Service, spends: &[(&Spend, Option<&Keyed>)]) -> Vec<Result<Admission, Problem>> {
    let settings = service.settings.current();
    let takes = spends.iter().map(|(spend, _)| asking(&settings, spend, None)).collect();
    let asked = service.buckets.take_all(takes).await;
    join_all(spends.iter().zip(asked).map(|((spend, keyed), asked)| judge(service, spend, *keyed, asked))).await
}

fn asking(settings: &Settings, spend: &Spend, hold: Option<HoldSlot>) -> Take {
    let buckets = applicable(settings, &owners_of(settings, spend), &spend.provider, spend.model.as_ref());
    Take { buckets, ask: Ask { amount: spend.tokens, hold } }
}

async fn judge(service: &Service, spend: &Spend, keyed: Option<&Keyed>, asked: Asked) -> Result<Admission, Problem> {
    match asked {
        Asked::Allowed(taken) => Ok(Admission::Admitted(taken)),
        Asked::Refused(record) => match service.recall(keyed).await? {
            Some(stored) => Ok(Admission::Done(stored)),
            None => {
                counters::consumed(&spend.provider, "rate_limited");
                service.refusals.count(spend, refusals::RATE_LIMITED);
                Err(record.refusal(service.clock.now()))
            }
        },
        Asked::Closed { store } => match service.recall(keyed).await? {
            Some(stored) => Ok(Admission::Done(stored)),
            None => {
                counters::consumed(&spend.provider, "failed");
                Err(error::limits_closed(store))
            }
        },
    }
}

/// What the ledger made of a spend.
pub enum Booked {
    /// Done now, and committed.
    New(Outcome),
    /// Done before under the same key; the amount is back in its buckets.
    Before(StoredAnswer),
    /// A crashed process left this charge open under the same key; the amount is back in its buckets.
    LeftOpen(StoredAnswer),
}

/// Writes the spend. Whatever is known to have charged nothing gives its amount back; an unknown outcome keeps it.
pub async fn book(service: &Service, spend: &Spend, taken: &Taken, request: LedgerRequest) -> Result<Booked, Problem> {
    let answer = match service.writer.write(request).await {
        Ok(answer) => answer,
        Err(failure) => {
            if failure.changed_nothing() {
                service.buckets.give_back(taken).await;
            }
            counters::consumed(&spend.provider, "failed");
            return Err(taken.record.on(error::write(&failure)));
        }
    };
    if let LedgerAnswer::Decided(outcome @ Outcome::Charged { .. }) = answer {
        return Ok(Booked::New(outcome));
    }
    service.buckets.give_back(taken).await;
    let problem = match answer {
        LedgerAnswer::Replayed(stored) => return Ok(Booked::Before(stored)),
        LedgerAnswer::Resumed(stored) => return Ok(Booked::LeftOpen(stored)),
        LedgerAnswer::Mismatch => error::idempotency_mismatch(),
        LedgerAnswer::InProgress => error::idempotency_in_progress(),
        LedgerAnswer::Decided(outcome) => refused(service, spend, &outcome),
    };
    Err(taken.record.on(problem))
}

fn refused(service: &Service, spend: &Spend, outcome: &Outcome) -> Problem {
    if matches!(outcome, Outcome::QuotaExhausted(_) | Outcome::BudgetExhausted(_)) {
        counters::consumed(&spend.provider, "quota_insufficient");
        service.refusals.count(spend, refusals::QUOTA_EXHAUSTED);
    }
    error::outcome(outcome)
}

/// The slot that a hold takes from limits on running holds: free when the hold ends, and after its time to live at the latest.
pub fn slot(id: ChargeId, ttl: TimeDelta) -> HoldSlot {
    HoldSlot { id: id.0, ttl_ms: ttl.num_milliseconds() }
}

/// After the end of a hold, once however often the end is repeated: its slot is free, what it did not use is given back to its buckets,
/// and what it used beyond is filled in. Nobody is refused for that, but the next ones feel it.
pub async fn even_out(service: &Service, charge: &Charge, changed: bool, facts: &SpendFacts) {
    let changed = changed || is_back(Defect::GivenBackTwice);
    let settings = service.settings.current();
    service.buckets.give_back_charge(&settings, charge, facts, used(charge, changed)).await;
    service.buckets.fill_charge(&settings, charge, facts, beyond(charge, changed)).await;
}

/// The part of a hold that stays in the buckets after its end.
pub const fn used(charge: &Charge, changed: bool) -> Tokens {
    match charge.status {
        _ if !changed => charge.held,
        ChargeStatus::Released | ChargeStatus::Expired => Tokens::ZERO,
        // After expiry everything was given back already.
        ChargeStatus::Settled if !charge.late => charge.settled,
        ChargeStatus::Settled | ChargeStatus::Refunded | ChargeStatus::Held => charge.held,
    }
}

/// What a charge came to and is in no bucket: the part above its hold, or all of it where that was given back at expiry.
pub fn beyond(charge: &Charge, changed: bool) -> Tokens {
    match charge.status {
        ChargeStatus::Settled if changed && charge.late => charge.settled,
        ChargeStatus::Settled if changed => charge.settled.saturating_sub(charge.held),
        _ => Tokens::ZERO,
    }
}

/// What a stored context says about the buckets, for answers that carry nothing else.
pub fn rate_of(context: &[u8]) -> Result<RateRecord, Problem> {
    serde_json::from_slice(context).map_err(|error| Problem::internal(&error))
}
