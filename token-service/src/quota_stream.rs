//! `GET /api/v1/tokens/quota/stream`: the quota of a user or an org as it changes, as server-sent events.
//!
//! The id of each event is the number of the payer's newest event that it knows of. Whoever comes back with it as `Last-Event-ID` is
//! told each threshold that was reached since, then the quota as it stands: nothing is missed, however long the connection was gone.

use crate::{
    callers::Reader,
    error, quota,
    service::Service,
    spend_request::{known_provider, named_user, optional_org, required},
};
use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response, Sse, sse::Event},
};
use domain::{
    access::Caller,
    event::EventType,
    ids::{Payer, Provider, SHARDS, Shard},
};
use futures::{Stream, stream};
use ports::outbox::{Outbox, OutboxRow};
use serde::Deserialize;
use serde_json::json;
use service_kit::{json::StrictQuery, problem::Problem};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

const LAST_EVENT_ID: &str = "last-event-id";
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Streams of one process: each reads its payer's shard when something happens there.
const MOST_STREAMS: usize = 1_000;
/// Between two looks at the shards, however much is written meanwhile.
const PACE: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_secs(1);
const PAGE: u32 = 500;

/// How far each shard is, for all streams of this process; nobody looks while there are none.
pub struct Heads {
    newest: watch::Sender<Vec<i64>>,
    wanted: Notify,
    room: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Heads {
    pub fn new(shutdown: CancellationToken) -> Self {
        let newest = watch::Sender::new(vec![0; usize::from(SHARDS)]);
        Self { newest, wanted: Notify::new(), room: Arc::new(Semaphore::new(MOST_STREAMS)), shutdown }
    }

    /// Looks for new events for as long as a stream wants them; until shutdown.
    pub async fn follow(self: Arc<Self>, outbox: Arc<dyn Outbox>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.look(&*outbox) => {}
            }
        }
    }

    async fn look(&self, outbox: &dyn Outbox) {
        if self.newest.receiver_count() == 0 {
            self.wanted.notified().await;
        }
        match outbox.heads().await {
            Ok(heads) => {
                let numbers: Vec<i64> = heads.iter().map(|head| head.last_seq).collect();
                self.newest.send_if_modified(|known| std::mem::replace(known, numbers.clone()) != numbers);
            }
            Err(error) => tracing::debug!(%error, "the streams of quotas wait for the outbox"),
        }
        tokio::time::sleep(PACE).await;
        outbox.wait(WAIT).await;
    }

    fn join(&self) -> Result<(watch::Receiver<Vec<i64>>, OwnedSemaphorePermit), Problem> {
        let permit = Arc::clone(&self.room).try_acquire_owned();
        let permit =
            permit.map_err(|_| Problem::overloaded("token-service", format!("{MOST_STREAMS} streams are open, no more are taken")))?;
        let receiver = self.newest.subscribe();
        self.wanted.notify_one();
        Ok((receiver, permit))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
}

pub async fn stream(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    headers: HeaderMap,
    StrictQuery(query): StrictQuery<StreamQuery>,
) -> Result<Response, Problem> {
    let payer = match optional_org(query.org_id.as_deref())? {
        Some(org) if query.user_id.is_none() => Payer::Org(org),
        Some(_) => return Err(Problem::field("orgId", "only one of userId and orgId may be given")),
        None => Payer::User(named_user(query.user_id.as_deref(), &caller)?.id()?),
    };
    let provider = known_provider(required("provider", query.provider.as_deref())?, &service.settings.current())?.0;
    let seen = match headers.get(LAST_EVENT_ID).map(|value| value.to_str().ok().and_then(|text| text.trim().parse::<i64>().ok())) {
        None => None,
        Some(Some(seen)) if seen >= 0 => Some(seen),
        Some(_) => return Err(Problem::field("Last-Event-ID", "Last-Event-ID must be an id that this stream has given")),
    };
    // The first look decides between a stream and a refusal.
    quota::find(&service, &caller, payer, &provider).await?.ok_or_else(error::quota_not_found)?;
    let (heads, permit) = service.heads.join()?;
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let shutdown = service.heads.shutdown.clone();
    let follower = Follower {
        service,
        caller,
        payer,
        provider,
        heads,
        heartbeat,
        shutdown,
        seen,
        greeted: false,
        queue: VecDeque::new(),
        _permit: permit,
    };
    Ok(Sse::new(follower.events()).into_response())
}

struct Follower {
    service: Arc<Service>,
    caller: Arc<Caller>,
    payer: Payer,
    provider: Provider,
    heads: watch::Receiver<Vec<i64>>,
    heartbeat: Interval,
    shutdown: CancellationToken,
    /// The number up to which everything was told, now or before the connection was lost.
    seen: Option<i64>,
    /// The quota was told on this connection.
    greeted: bool,
    queue: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move { follower.next().await.map(|event| (Ok(event), follower)) })
    }

    /// `None` ends the stream: at shutdown, when a store is away, and when the caller may not see the quota any more. The client asks again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.shutdown.is_cancelled() {
                return None;
            }
            if !self.greeted || self.is_behind() {
                self.catch_up().await?;
                continue;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                changed = self.heads.changed() => changed.ok()?,
                _ = self.heartbeat.tick() => return Some(Event::default().comment("heartbeat")),
            }
        }
    }

    fn is_behind(&mut self) -> bool {
        let newest = self.heads.borrow_and_update().get(usize::from(self.payer.shard().index())).copied();
        newest > self.seen
    }

    async fn catch_up(&mut self) -> Option<()> {
        let (outbox, shard) = (Arc::clone(&self.service.outbox), self.payer.shard());
        let mut seen = match self.seen {
            Some(seen) => seen,
            None => newest(&*outbox, shard).await?,
        };
        let mut moved = !std::mem::replace(&mut self.greeted, true);
        loop {
            let rows = outbox.read(shard, seen, PAGE).await.ok()?;
            let Some(last) = rows.last() else { break };
            seen = last.seq;
            moved |= rows.iter().any(|row| row.tenant == self.payer.tenant());
            let told: Vec<Event> = rows.iter().filter_map(|row| self.threshold(row)).collect();
            self.queue.extend(told);
        }
        self.seen = Some(seen);
        if moved {
            let quota = quota::find(&self.service, &self.caller, self.payer, &self.provider).await.ok()??;
            self.queue.push_back(Event::default().event("quota").id(seen.to_string()).data(quota.to_string()));
        }
        Some(())
    }

    fn threshold(&self, row: &OutboxRow) -> Option<Event> {
        if row.kind != EventType::ThresholdReached.as_str() || row.tenant != self.payer.tenant() {
            return None;
        }
        let event = event_codec::decode(&row.payload).ok()?.event;
        let concerns = event.provider.as_ref().is_none_or(|own| *own == self.provider);
        // What concerns another member only is nobody else's business.
        let member = event
            .metadata
            .get("member")
            .is_none_or(|member| self.caller.is_admin() || self.caller.user_id.map(|own| own.to_string()).as_ref() == Some(member));
        let data = json!({"eventId": event.id, "at": event.occurred_at, "provider": event.provider, "threshold": event.metadata});
        (concerns && member).then(|| Event::default().event("threshold").id(row.seq.to_string()).data(data.to_string()))
    }
}

async fn newest(outbox: &dyn Outbox, shard: Shard) -> Option<i64> {
    outbox.heads().await.ok()?.into_iter().find(|head| head.shard == shard).map(|head| head.last_seq)
}
