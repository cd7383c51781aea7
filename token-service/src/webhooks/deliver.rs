//! Deliveries: events that a webhook wants are queued from the outbox, then sent until they are taken or given up.
//!
//! At least once, by any process: a delivery is claimed for the time of one attempt. The signature is that of the Standard Webhooks
//! convention: HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`.

use super::egress::{self, Networks};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::{event::UsageEvent, ids::Shard};
use futures::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use ports::{
    Clock, Result,
    outbox::Outbox,
    webhooks::{Delivery, DeliveryOutcome, DeliveryStatus, Tidings, Webhook, Webhooks},
};
use reqwest::{StatusCode, header};
use serde_json::json;
use sha2::Sha256;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Seconds until the next attempt after each failed one; after the last the delivery is given up: about a day and a half in all.
const PAUSES_SECS: [i64; 9] = [5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200, 43_200];
/// Longer than an attempt may take.
const CLAIM: TimeDelta = TimeDelta::seconds(30);
const AT_ONCE: usize = 8;
const PAGE: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the log of ended deliveries is kept.
const KEEP: TimeDelta = TimeDelta::days(30);
const FORGET_EVERY: TimeDelta = TimeDelta::hours(1);
/// Of an error's text, characters.
const LONGEST_ERROR: usize = 200;

pub struct Courier {
    pub outbox: Arc<dyn Outbox>,
    pub webhooks: Arc<dyn Webhooks>,
    pub http: reqwest::Client,
    pub networks: Networks,
    pub clock: Clock,
}

impl Courier {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut forgotten = DateTime::<Utc>::MIN_UTC;
        let mut failing = false;
        loop {
            let round = self.round(&mut forgotten).await;
            if let Err(error) = &round
                && !failing
            {
                tracing::warn!(%error, "deliveries to webhooks wait for their store");
            }
            failing = round.is_err();
            let pause = if matches!(round, Ok(true)) { Duration::ZERO } else { LOOK_AGAIN };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether there may be more to do at once.
    async fn round(&self, forgotten: &mut DateTime<Utc>) -> Result<bool> {
        let more = self.queue().await?;
        let now = self.clock.now();
        let due = self.webhooks.claim_due(now, now + CLAIM, PAGE).await?;
        let full = due.len() == usize::try_from(PAGE).unwrap_or(usize::MAX);
        let attempts = due.into_iter().map(|(webhook, delivery)| self.attempt(webhook, delivery));
        let recorded: Vec<Result<()>> = stream::iter(attempts).buffer_unordered(AT_ONCE).collect().await;
        recorded.into_iter().collect::<Result<()>>()?;
        if now - *forgotten >= FORGET_EVERY {
            self.webhooks.forget(now - KEEP).await?;
            *forgotten = now;
        }
        Ok(more || full)
    }

    /// Makes deliveries of the thresholds that were reached since the last look.
    async fn queue(&self) -> Result<bool> {
        let known: BTreeMap<Shard, i64> = self.webhooks.positions().await?.into_iter().collect();
        let after: Vec<(Shard, i64)> = Shard::all().map(|shard| (shard, known.get(&shard).copied().unwrap_or(0))).collect();
        let rows = self.outbox.read_thresholds(&after, PAGE).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let positions: BTreeMap<Shard, i64> = rows.iter().map(|row| (row.shard, row.seq)).collect();
        // What cannot be read the audit names; nobody can be told of it.
        let events = rows.iter().filter_map(|row| event_codec::decode(&row.payload).ok());
        let tidings: Vec<Tidings> = events.map(|event| tidings(&event)).collect();
        self.webhooks.queue(&tidings, &positions.into_iter().collect::<Vec<_>>()).await?;
        Ok(true)
    }

    async fn attempt(&self, webhook: Webhook, delivery: Delivery) -> Result<()> {
        let answer = self.send(&webhook, &delivery).await;
        let outcome = after(&delivery.outcome, answer, self.clock.now());
        metrics::counter!("webhook_deliveries_total", "status" => outcome.status.as_str()).increment(1);
        self.webhooks.record(webhook.id, delivery.event_id, &outcome).await
    }

    async fn send(&self, webhook: &Webhook, delivery: &Delivery) -> std::result::Result<StatusCode, String> {
        // The operator's choice may have changed since the address was given.
        let url = egress::check(&webhook.url, self.networks).map_err(|problem| problem.detail().to_owned())?;
        let (id, timestamp) = (format!("msg_{}", delivery.event_id), self.clock.now().timestamp().to_string());
        let request = self
            .http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-signature", signature(&webhook.secret, &id, &timestamp, &delivery.body))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .body(delivery.body.clone());
        let answered = request.send().await.map(|response| response.status());
        answered.map_err(|error| cause(&error))
    }
}

/// The innermost cause: the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().chars().take(LONGEST_ERROR).collect()
}

fn tidings(event: &UsageEvent) -> Tidings {
    let fact = &event.event;
    let of = if fact.metadata.contains_key("of") { "pool" } else { "budget" };
    let body = json!({
        "type": "threshold.reached",
        "timestamp": fact.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "data": {
            "eventId": fact.id,
            "orgId": fact.payer.org(),
            "userId": fact.user_id,
            "provider": fact.provider,
            of: fact.metadata,
        },
    });
    Tidings { event_id: fact.id, payer: fact.payer, body: body.to_string(), at: fact.occurred_at }
}

/// `v1,<base64>` over id, timestamp and body.
pub fn signature(secret: &[u8; 32], id: &str, timestamp: &str, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    for part in [id, ".", timestamp, ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// 2xx is taken, 410 wants no more of it; anything else is tried again until the pauses are used up.
fn after(before: &DeliveryOutcome, answer: std::result::Result<StatusCode, String>, now: DateTime<Utc>) -> DeliveryOutcome {
    let attempts = before.attempts.saturating_add(1);
    let pause = usize::try_from(before.attempts).ok().and_then(|index| PAUSES_SECS.get(index));
    let (answered, error) = match &answer {
        Ok(status) => (Some(i32::from(status.as_u16())), None),
        Err(error) => (None, Some(error.clone())),
    };
    let (status, due_at) = match (answer, pause) {
        (Ok(status), _) if status.is_success() => (DeliveryStatus::Delivered, now),
        (Ok(StatusCode::GONE), _) | (_, None) => (DeliveryStatus::Failed, now),
        (_, Some(pause)) => (DeliveryStatus::Pending, now + TimeDelta::seconds(*pause)),
    };
    DeliveryOutcome { status, attempts, due_at, answered, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_signature_is_that_of_the_convention() {
        // The example of the Standard Webhooks specification, with its secret.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        mac.update(signed.as_bytes());
        assert_eq!(STANDARD.encode(mac.finalize().into_bytes()), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let own = signature(&[7; 32], "msg_1", "1614265330", "{}");
        assert!(own.starts_with("v1,") && own != signature(&[7; 32], "msg_1", "1614265331", "{}"));
    }

    #[test]
    fn a_failed_delivery_is_tried_again_with_growing_pauses_and_then_given_up() {
        let mut outcome = DeliveryOutcome { status: DeliveryStatus::Pending, attempts: 0, due_at: now(), answered: None, error: None };
        let mut pauses = Vec::new();
        while outcome.status == DeliveryStatus::Pending {
            outcome = after(&outcome, Ok(StatusCode::BAD_GATEWAY), now());
            pauses.push((outcome.due_at - now()).num_seconds());
        }
        assert_eq!((outcome.status, outcome.attempts, outcome.answered), (DeliveryStatus::Failed, 10, Some(502)));
        assert!(pauses[..9].is_sorted() && pauses[0] == 5, "{pauses:?}");
        let lost = after(&DeliveryOutcome { attempts: 0, ..outcome.clone() }, Err("connection refused".into()), now());
        assert_eq!((lost.status, lost.error.as_deref()), (DeliveryStatus::Pending, Some("connection refused")));
        assert_eq!(after(&lost, Ok(StatusCode::NO_CONTENT), now()).status, DeliveryStatus::Delivered);
        assert_eq!(after(&lost, Ok(StatusCode::GONE), now()).status, DeliveryStatus::Failed);
    }
}
