//! What a payer used lately, as the ledger remembers it: from this its buckets are restored when their store has forgotten them.

use crate::spend_facts::SpendFactsCache;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    bucket::{Ask, HoldSlot},
    charge::{Charge, ChargeStatus},
    ids::Payer,
};
use ports::{
    Clock, Result,
    ledger::{ChargeQuery, Ledger},
    rate_limits::{Owners, Use, applicable},
};
use service_kit::settings::HotSettings;
use std::sync::Arc;

const PAGE: u32 = 1_000;
/// Charges that are looked at, the newest first. What a payer used before them is not restored.
const MOST_CHARGES: usize = 20_000;

pub struct RecentUses {
    pub ledger: Arc<dyn Ledger>,
    pub facts: Arc<SpendFactsCache>,
    pub settings: HotSettings,
    pub clock: Clock,
}

impl RecentUses {
    /// Oldest first, as far back as any limit of today remembers.
    pub async fn of(&self, payer: Payer) -> Result<Vec<Use>> {
        let (settings, now) = (self.settings.current(), self.clock.now());
        let from = now - TimeDelta::milliseconds(settings.bucket_memory_ms());
        let mut uses = Vec::new();
        for charge in self.charges(payer, from).await?.iter().rev() {
            let Some(ask) = still_used(charge) else { continue };
            let facts = self.facts.of(charge.spec.user_id, payer.org()).await?;
            let owners = Owners::of_charge(&settings, charge, &facts);
            let mut buckets = applicable(&settings, &owners, &charge.spec.provider, charge.spec.model.as_ref());
            // What all payers share is not this one's to restore.
            buckets.retain(|bucket| !bucket.key.scope.is_shared() && (ask.hold.is_some() || !bucket.rule.is_of_slots()));
            uses.push(Use { buckets, ask, age_ms: (now - charge.created_at).num_milliseconds().max(0) });
        }
        Ok(uses)
    }

    /// Newest first.
    async fn charges(&self, payer: Payer, from: DateTime<Utc>) -> Result<Vec<Charge>> {
        let mut found: Vec<Charge> = Vec::new();
        loop {
            let before = found.last().map(|charge| charge.spec.id);
            let query = ChargeQuery { payer, user_id: None, provider: None, from: Some(from), to: None, before, limit: PAGE };
            let page = self.ledger.charges(&query).await?;
            let last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            found.extend(page);
            if last || found.len() >= MOST_CHARGES {
                return Ok(found);
            }
        }
    }
}

/// What of a charge is in its buckets; nothing of what was given back.
fn still_used(charge: &Charge) -> Option<Ask> {
    match charge.status {
        ChargeStatus::Held => {
            let ttl_ms = charge.expires_at.map_or(0, |deadline| (deadline - charge.created_at).num_milliseconds());
            Some(Ask { amount: charge.held, hold: Some(HoldSlot { id: charge.spec.id.0, ttl_ms }) })
        }
        ChargeStatus::Settled | ChargeStatus::Refunded => Some(Ask { amount: charge.settled, hold: None }),
        ChargeStatus::Released | ChargeStatus::Expired => None,
    }
}
