//! Raw events one by one: listings, and totals of combinations that no rollup holds.

use crate::{
    error::store_failed,
    view::{Payers, View},
    windows::Window,
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    event::{EventType, UsageEvent},
    ids::{EventId, KeyId, Model, Provider, UserId},
};
use ports::{
    Result,
    usage_store::{RawScope, UsageStore},
};
use service_kit::problem::Problem;
use std::{cmp::Reverse, collections::HashSet};

const PAGE: u32 = 1_000;
const LARGEST_PAGE: u32 = 64_000;
/// Events looked at for one answer.
pub const SCANNED_AT_MOST: usize = 100_000;

/// Which events count.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub provider: Option<Provider>,
    pub user: Option<UserId>,
    pub key: Option<KeyId>,
    pub model: Option<Model>,
}

impl Filter {
    pub fn matches(&self, event: &UsageEvent) -> bool {
        let fact = &event.event;
        let fits = |wanted: bool, same: bool| !wanted || same;
        fits(self.provider.is_some(), fact.provider == self.provider)
            && fits(self.user.is_some(), fact.user_id == self.user)
            && fits(self.key.is_some(), fact.key_id == self.key)
            && fits(self.model.is_some(), fact.model == self.model)
    }
}

/// Settled charges and refusals: what a listing of usage shows.
pub fn is_usage(event: &UsageEvent) -> bool {
    matches!(event.event.kind, EventType::ChargeSettled | EventType::RequestsRefused)
}

/// The newest events of a listing, and whether older ones were not looked at.
pub struct Listing {
    pub events: Vec<UsageEvent>,
    pub truncated: bool,
}

/// The newest `limit` events that match.
pub async fn newest(store: &dyn UsageStore, view: &View, filter: &Filter, window: Window, limit: usize) -> Result<Listing> {
    let mut listing = Listing { events: Vec::new(), truncated: false };
    for scope in scopes(view, filter) {
        let mut pages = Pages::new(store, scope, window);
        let mut found = 0;
        while let Some(events) = pages.next().await? {
            let matching = events.into_iter().filter(|event| is_usage(event) && filter.matches(event));
            let before = listing.events.len();
            listing.events.extend(matching.take(limit - found));
            found += listing.events.len() - before;
            if found == limit {
                break;
            }
            if pages.scanned >= SCANNED_AT_MOST {
                listing.truncated = true;
                break;
            }
        }
    }
    listing.events.sort_by_key(|event| Reverse((event.event.occurred_at, event.event.id)));
    listing.events.truncate(limit);
    Ok(listing)
}

/// Every event of the window that matches; refused when that is more than may be looked at.
pub async fn all(store: &dyn UsageStore, view: &View, filter: &Filter, window: Window) -> Result<Vec<UsageEvent>, Problem> {
    let mut all = Vec::new();
    for scope in scopes(view, filter) {
        let mut pages = Pages::new(store, scope, window);
        while let Some(events) = pages.next().await.map_err(store_failed)? {
            all.extend(events.into_iter().filter(|event| filter.matches(event)));
            if pages.scanned >= SCANNED_AT_MOST {
                let detail = format!(
                    "this combination of filters is counted from single events, at most {SCANNED_AT_MOST} of them; shorten the time or drop a filter"
                );
                return Err(Problem::field("from", detail));
            }
        }
    }
    Ok(all)
}

fn scopes(view: &View, filter: &Filter) -> Vec<RawScope> {
    match (&view.payers, &filter.provider) {
        (Payers::These(tenants), _) => tenants.iter().copied().map(RawScope::Tenant).collect(),
        (Payers::Everybody, Some(provider)) => vec![RawScope::Provider(provider.clone())],
        (Payers::Everybody, None) => Vec::new(),
    }
}

/// Pages through a scope, newest first. A page ends in the middle of a millisecond, so the next one reads that millisecond again.
struct Pages<'a> {
    store: &'a dyn UsageStore,
    scope: RawScope,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    seen_at_edge: HashSet<EventId>,
    page: u32,
    finished: bool,
    scanned: usize,
}

impl<'a> Pages<'a> {
    fn new(store: &'a dyn UsageStore, scope: RawScope, window: Window) -> Self {
        let Window { from, to } = window;
        Self { store, scope, from, to, seen_at_edge: HashSet::new(), page: PAGE, finished: from >= to, scanned: 0 }
    }

    async fn next(&mut self) -> Result<Option<Vec<UsageEvent>>> {
        if self.finished {
            return Ok(None);
        }
        let mut events = self.store.raw(&self.scope, self.from, self.to, self.page).await?;
        self.finished = events.len() < usize::try_from(self.page).unwrap_or(usize::MAX);
        let edge = events.last().map(|event| event.event.occurred_at);
        events.retain(|event| !self.seen_at_edge.contains(&event.event.id));
        if let Some(edge) = edge {
            let behind_edge = edge + TimeDelta::milliseconds(1);
            if behind_edge >= self.to {
                // A millisecond with more events than a page; a page above the largest would not end it either.
                self.finished |= self.page >= LARGEST_PAGE;
                self.page = (self.page * 4).min(LARGEST_PAGE);
            } else {
                self.seen_at_edge.clear();
            }
            self.to = self.to.min(behind_edge);
            self.seen_at_edge.extend(events.iter().filter(|event| event.event.occurred_at == edge).map(|event| event.event.id));
        }
        self.scanned += events.len();
        Ok(Some(events))
    }
}
