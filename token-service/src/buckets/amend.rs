//! What a spend took from its buckets, made right once the ledger has said what it came to. All of it best effort: what is not given
//! back leaves its bucket by itself, and what is not filled in lets that much more pass.

use super::{Buckets, HeldBy, Taken};
use domain::{
    amount::Tokens,
    bucket::{Ask, Return},
    charge::Charge,
    settings::Settings,
};
use ports::{
    accounts::SpendFacts,
    rate_limits::{Bucket, GiveBack, Owners, RateLimits, Take, applicable},
};

impl Buckets {
    /// Undoes a take whose request is known to have changed nothing.
    pub async fn give_back(&self, taken: &Taken) {
        self.return_taken(taken, Tokens::ZERO, true).await;
    }

    /// Gives back what a request did not need, and the slot of a hold that is over.
    pub async fn give_back_rest(&self, taken: &Taken, used: Tokens) {
        self.return_taken(taken, used, false).await;
    }

    async fn return_taken(&self, taken: &Taken, used: Tokens, undone: bool) {
        let ask = taken.take.ask;
        let held_for_ms = (self.clock.now() - taken.since).num_milliseconds();
        let back = Return { amount: ask.amount.saturating_sub(used), hold: ask.hold.map(|hold| hold.id), held_for_ms, undone };
        give_back_to(self.holder(taken), taken.take.buckets.clone(), back).await;
    }

    fn holder(&self, taken: &Taken) -> &dyn RateLimits {
        let store = if taken.held_by == HeldBy::Local { &self.local } else { &self.store };
        store.as_ref()
    }

    /// Fills in what a request came to beyond what it took.
    pub async fn fill(&self, taken: &Taken, beyond: Tokens) {
        fill_in(self.holder(taken), taken.take.buckets.clone(), beyond).await;
    }

    /// As [`Buckets::give_back_rest`] for a charge that this or another process held, to the buckets that apply to it today.
    pub async fn give_back_charge(&self, settings: &Settings, charge: &Charge, facts: &SpendFacts, used: Tokens) {
        let held_for_ms = (self.clock.now() - charge.created_at).num_milliseconds();
        let back = Return { amount: charge.held.saturating_sub(used), hold: Some(charge.spec.id.0), held_for_ms, undone: false };
        give_back_to(self.store.as_ref(), buckets_of(settings, charge, facts), back).await;
    }

    /// As [`Buckets::fill`] for a charge that this or another process held, into the buckets that apply to it today.
    pub async fn fill_charge(&self, settings: &Settings, charge: &Charge, facts: &SpendFacts, beyond: Tokens) {
        fill_in(self.store.as_ref(), buckets_of(settings, charge, facts), beyond).await;
    }
}

fn buckets_of(settings: &Settings, charge: &Charge, facts: &SpendFacts) -> Vec<Bucket> {
    let owners = Owners::of_charge(settings, charge, facts);
    applicable(settings, &owners, &charge.spec.provider, charge.spec.model.as_ref())
}

async fn fill_in(store: &dyn RateLimits, mut buckets: Vec<Bucket>, amount: Tokens) {
    buckets.retain(|bucket| !bucket.rule.is_of_slots());
    if buckets.is_empty() || amount.is_zero() {
        return;
    }
    let take = Take { buckets, ask: Ask { amount, hold: None } };
    if let Err(error) = store.fill(&[take]).await {
        tracing::debug!(%error, "what was used beyond a hold was not filled into its buckets");
        metrics::counter!("bucket_fill_failures_total").increment(1);
    }
}

async fn give_back_to(store: &dyn RateLimits, mut buckets: Vec<Bucket>, back: Return) {
    buckets.retain(|bucket| if bucket.rule.is_of_slots() { back.hold.is_some() } else { !back.amount.is_zero() });
    if buckets.is_empty() {
        return;
    }
    if let Err(error) = store.give_back(&[GiveBack { buckets, back }]).await {
        tracing::debug!(%error, "an amount was not given back to its buckets and leaves them by itself");
        metrics::counter!("bucket_give_back_failures_total").increment(1);
    }
}
