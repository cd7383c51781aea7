//! A consume with a `prompt`: hold the declared amount, ask the provider, settle what it reports, or release everything.
//! The provider is asked at most once, whatever happens before or after.

use crate::{
    buckets::Taken,
    consume_answer::{ConsumeContext, Ended, ProviderPart},
    counters,
    dialect::Usage,
    error,
    group_commit::{WriteError, Written},
    idempotency::{Keyed, Opening},
    payer::Spend,
    provider_call::{Prepared, ProviderFailure, Reply},
    service::{Service, costing, having_seen},
    spending::{Admission, Booked, admit, beyond, book, even_out, slot, used},
    token_kinds::cost,
};
use axum::http::header;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    charge::{ChargeSpec, ChargeStatus},
    ids::ChargeId,
    ledger::{Command, Outcome},
    money::{Cost, TokenKinds},
};
use ports::ledger::{LedgerAnswer, LedgerRequest, StoredAnswer};
use service_kit::problem::Problem;
use std::{sync::Arc, time::Duration};

/// How much longer than the call the hold lives: time to settle while the ledger is away. After it the sweeper returns the tokens.
const MARGIN: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The story: bucket, hold, call, settlement.
pub async fn charge(service: Arc<Service>, spend: Spend, keyed: Option<Keyed>, prompt: String) -> Result<Ended, Problem> {
    // Too dear to be counted: refused before anything is taken.
    spend.cost(&service)?;
    let prepared = service.providers.prepare(&service.settings.current(), &spend, &prompt)?;
    drop(prompt);
    let keyed = keyed.as_ref();
    let _turn = match service.open(keyed).await? {
        Opening::Turn(turn) => turn,
        Opening::Done(stored) => return Ended::before(stored),
    };
    let ttl = TimeDelta::from_std(prepared.timeout + MARGIN).unwrap_or_default();
    let spec = spend.charge(&service);
    let taken = match admit(&service, &spend, Some(slot(spec.id, ttl)), keyed).await? {
        Admission::Admitted(taken) => taken,
        Admission::Done(stored) => return Ended::before(stored),
    };
    let context = ConsumeContext { rate: taken.record.clone(), provider: None };
    let settle_by = service.clock.now() + ttl;
    let made_at = service.clock.now();
    let request = hold(&service, &spend, spec, keyed, &context, settle_by)?;
    let charge_id = match book(&service, &spend, &taken, request).await? {
        Booked::New(Outcome::Charged { charge, .. }) => charge.spec.id,
        Booked::New(other) => return Err(context.rate.on(error::outcome(&other))),
        Booked::Before(stored) => return Ended::before(stored),
        Booked::LeftOpen(stored) => return end_left_open(&service, &spend, keyed, &stored).await,
    };
    let held = Held { service: &service, spend: &spend, keyed, charge_id, made_at, taken: Some(&taken) };
    match call(prepared, &spend).await {
        Ok(reply) => held.settle(context, reply).await,
        Err(failure) => held.release(context, failure).await,
    }
}

async fn call(prepared: Prepared, spend: &Spend) -> Result<Reply, ProviderFailure> {
    prepared.make(&spend.provider).await
}

fn hold(
    service: &Service,
    spend: &Spend,
    spec: ChargeSpec,
    keyed: Option<&Keyed>,
    context: &ConsumeContext,
    expires_at: DateTime<Utc>,
) -> Result<LedgerRequest, Problem> {
    let idempotency = match keyed {
        Some(keyed) => Some(keyed.opens(context.to_bytes()?)),
        None => None,
    };
    let command = Command::Hold { spec, tokens: spend.tokens, expires_at };
    let request = costing(service.request(spend.payer, command, &spend.facts, idempotency), spend.cost(service)?);
    Ok(having_seen(request, &context.rate, &service.settings.current()))
}

/// A charge of ours that waits for its end.
struct Held<'a> {
    service: &'a Service,
    spend: &'a Spend,
    keyed: Option<&'a Keyed>,
    charge_id: ChargeId,
    made_at: DateTime<Utc>,
    /// What is in the buckets, when this process put it there.
    taken: Option<&'a Taken>,
}

impl Held<'_> {
    async fn settle(&self, mut context: ConsumeContext, reply: Reply) -> Result<Ended, Problem> {
        let (tokens, kinds) = match reply.usage {
            Usage::Reported { tokens, kinds } => (tokens, kinds),
            Usage::Absent => (self.spend.tokens, self.spend.kinds),
        };
        let cost = self.cost(kinds);
        context.provider = Some(ProviderPart::Answered(reply.answer));
        let outcome = self.end(&context, Command::Settle { charge_id: self.charge_id, tokens }, cost).await?;
        let settled = matches!(outcome, Outcome::Charged { .. });
        counters::consumed(&self.spend.provider, if settled { "allowed" } else { "failed" });
        Ok(Ended::now(context, outcome))
    }

    async fn release(&self, mut context: ConsumeContext, failure: ProviderFailure) -> Result<Ended, Problem> {
        counters::consumed(&self.spend.provider, "provider_failure");
        context.provider = Some(ProviderPart::Failed(failure));
        let outcome = self.end(&context, Command::Release { charge_id: self.charge_id }, None).await?;
        Ok(Ended::now(context, outcome))
    }

    /// A credible usage has a cost; one beyond the largest amount of money would have been refused with the hold.
    fn cost(&self, kinds: TokenKinds) -> Option<Cost> {
        let Spend { provider, model, .. } = self.spend;
        cost(self.service, provider, model.as_ref(), self.made_at, kinds).unwrap_or_default()
    }

    /// Ends the charge and, with it, the story under its key.
    async fn end(&self, context: &ConsumeContext, command: Command, cost: Option<Cost>) -> Result<Outcome, Problem> {
        let idempotency = match self.keyed {
            Some(keyed) => Some(keyed.completes(context.to_bytes()?)),
            None => None,
        };
        let request = costing(self.service.request(self.spend.payer, command, &self.spend.facts, idempotency), cost);
        match insist(self.service, request).await {
            Ok(LedgerAnswer::Decided(outcome)) => {
                self.even_out(&outcome).await;
                Ok(outcome)
            }
            Ok(LedgerAnswer::Replayed(stored)) => Ok(stored.outcome),
            Ok(LedgerAnswer::Mismatch) => Err(error::idempotency_mismatch()),
            Ok(LedgerAnswer::InProgress | LedgerAnswer::Resumed(_)) => Err(error::idempotency_in_progress()),
            // The provider was asked: an SDK that repeats this by itself would ask it again.
            Err(failure) => Err(context.rate.on(error::write(&failure)).header(error::SHOULD_RETRY, "false")),
        }
    }

    async fn even_out(&self, outcome: &Outcome) {
        let Outcome::Charged { charge, changed, .. } = outcome else { return };
        let Some(taken) = self.taken else { return even_out(self.service, charge, *changed, &self.spend.facts).await };
        self.service.buckets.give_back_rest(taken, used(charge, *changed)).await;
        self.service.buckets.fill(taken, beyond(charge, *changed)).await;
    }
}

/// The provider has answered, so the end of the charge is owed: tried again while the hold lives. Every attempt means the same end.
async fn insist(service: &Service, request: LedgerRequest) -> Written {
    let give_up = tokio::time::Instant::now() + MARGIN;
    let mut pause = FIRST_PAUSE;
    loop {
        let written = service.writer.write(request.clone()).await;
        let again = matches!(written, Err(WriteError::Overloaded | WriteError::Unavailable { .. } | WriteError::Unknown { .. }));
        if !again || tokio::time::Instant::now() + pause >= give_up {
            return written;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The opener of this key crashed. Whether the provider saw its call is not known, so it is not called again: what was held goes
/// back, and the answer says so. If somebody settled the charge meanwhile, that is the answer.
async fn end_left_open(service: &Service, spend: &Spend, keyed: Option<&Keyed>, opened: &StoredAnswer) -> Result<Ended, Problem> {
    let Outcome::Charged { charge, .. } = &opened.outcome else { return Err(error::outcome(&opened.outcome)) };
    let mut context = ConsumeContext::from_bytes(&opened.context)?;
    let current = service.ledger.find_charge(charge.spec.id).await.map_err(|failure| error::store(&failure))?;
    let current = current.ok_or_else(error::charge_not_found)?;
    let charge_id = current.spec.id;
    let command = match current.status {
        ChargeStatus::Settled | ChargeStatus::Refunded => Command::Settle { charge_id, tokens: current.settled },
        ChargeStatus::Held | ChargeStatus::Released | ChargeStatus::Expired => {
            context.provider = Some(ProviderPart::Failed(ProviderFailure::Interrupted));
            Command::Release { charge_id }
        }
    };
    let cost = current.cost.filter(|_| matches!(command, Command::Settle { .. }));
    let held = Held { service, spend, keyed, charge_id, made_at: current.created_at, taken: None };
    let outcome = held.end(&context, command, cost).await.map_err(|problem| problem.header(header::RETRY_AFTER, "1"))?;
    Ok(Ended::now(context, outcome))
}
