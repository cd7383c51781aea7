//! What every adapter of `ports::webhooks` must do.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::{EventId, Payer, Shard, UserId};
use ports::webhooks::{Delivery, DeliveryOutcome, DeliveryStatus, Tidings, Webhook, Webhooks};
use uuid::Uuid;

fn now() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn webhook(payer: Payer) -> Webhook {
    Webhook { id: Uuid::new_v4(), payer, url: "https://example.com/hook?größe=1".into(), secret: [7; 32], created_at: now() }
}

fn somebody() -> Payer {
    Payer::User(UserId(Uuid::new_v4()))
}

fn tidings(payer: Payer, at: DateTime<Utc>) -> Tidings {
    Tidings { event_id: EventId::generate(), payer, body: r#"{"type":"threshold.reached"}"#.into(), at }
}

async fn created(store: &dyn Webhooks, payer: Payer) -> Webhook {
    let webhook = webhook(payer);
    assert!(store.create(&webhook, 10).await.unwrap());
    webhook
}

/// The due ones of this payer; others of the same store are left alone by their deadline.
async fn due(store: &dyn Webhooks, payer: Payer, at: DateTime<Utc>) -> Vec<(Webhook, Delivery)> {
    let claimed = store.claim_due(at, at + TimeDelta::seconds(30), 1_000).await.unwrap();
    claimed.into_iter().filter(|(webhook, _)| webhook.payer == payer).collect()
}

pub async fn a_webhook_is_kept_for_its_payer_until_it_is_deleted(store: &dyn Webhooks) {
    let (payer, other) = (somebody(), somebody());
    let one = created(store, payer).await;
    assert_eq!(store.webhooks(payer).await.unwrap(), std::slice::from_ref(&one));
    assert!(store.webhooks(other).await.unwrap().is_empty());
    assert!(!store.create(&webhook(payer), 1).await.unwrap(), "no more than the most");
    assert!(!store.delete(other, one.id).await.unwrap());
    store.queue(&[tidings(payer, now())], &[]).await.unwrap();
    assert!(store.delete(payer, one.id).await.unwrap());
    assert!(!store.delete(payer, one.id).await.unwrap());
    assert!(store.deliveries(payer, one.id, 10).await.unwrap().is_empty());
}

pub async fn an_event_is_delivered_once_to_each_webhook_that_was_there(store: &dyn Webhooks) {
    let payer = somebody();
    let (one, two) = (created(store, payer).await, created(store, payer).await);
    let (news, older) = (tidings(payer, now()), tidings(payer, later(-1)));
    for _ in 0..2 {
        store.queue(&[news.clone(), older.clone(), tidings(somebody(), now())], &[]).await.unwrap();
    }
    for webhook in [&one, &two] {
        let queued = store.deliveries(payer, webhook.id, 10).await.unwrap();
        let outcome = DeliveryOutcome { status: DeliveryStatus::Pending, attempts: 0, due_at: now(), answered: None, error: None };
        let expected = Delivery { webhook_id: webhook.id, event_id: news.event_id, body: news.body.clone(), created_at: now(), outcome };
        assert_eq!(queued, [expected]);
    }
    assert!(store.deliveries(somebody(), one.id, 10).await.unwrap().is_empty());
}

pub async fn a_claimed_delivery_is_nobody_elses_until_its_deadline(store: &dyn Webhooks) {
    let payer = somebody();
    let webhook = created(store, payer).await;
    store.queue(&[tidings(payer, now())], &[]).await.unwrap();
    assert!(due(store, payer, later(-1)).await.is_empty());
    let claimed = due(store, payer, now()).await;
    assert_eq!((claimed.len(), &claimed[0].0), (1, &webhook));
    assert!(due(store, payer, later(29)).await.is_empty());
    assert_eq!(due(store, payer, later(30)).await.len(), 1, "whoever claimed it is gone");
}

pub async fn outcomes_are_kept_and_a_failed_delivery_can_begin_again(store: &dyn Webhooks) {
    let payer = somebody();
    let webhook = created(store, payer).await;
    let news = tidings(payer, now());
    store.queue(std::slice::from_ref(&news), &[]).await.unwrap();
    let failed = DeliveryOutcome {
        status: DeliveryStatus::Failed,
        attempts: 9,
        due_at: later(5),
        answered: Some(500),
        error: Some("it said: \"no\"".into()),
    };
    store.record(webhook.id, news.event_id, &failed).await.unwrap();
    assert_eq!(store.deliveries(payer, webhook.id, 10).await.unwrap()[0].outcome, failed);
    assert!(due(store, payer, later(60)).await.is_empty());
    assert!(!store.redeliver(somebody(), webhook.id, news.event_id, later(60)).await.unwrap());
    assert!(!store.redeliver(payer, webhook.id, EventId::generate(), later(60)).await.unwrap());
    assert!(store.redeliver(payer, webhook.id, news.event_id, later(60)).await.unwrap());
    let again = due(store, payer, later(60)).await;
    assert_eq!((again.len(), again[0].1.outcome.attempts), (1, 0));
}

pub async fn positions_only_rise(store: &dyn Webhooks) {
    let shard = Shard::new(5).unwrap();
    for seq in [7, 9, 8] {
        store.queue(&[], &[(shard, seq)]).await.unwrap();
    }
    let position = store.positions().await.unwrap().into_iter().find(|(of, _)| *of == shard);
    assert_eq!(position, Some((shard, 9)));
}

pub async fn ended_deliveries_are_forgotten_and_pending_ones_kept(store: &dyn Webhooks) {
    let payer = somebody();
    let webhook = created(store, payer).await;
    let (ended, pending) = (tidings(payer, now()), tidings(payer, now()));
    store.queue(&[ended.clone(), pending.clone()], &[]).await.unwrap();
    let outcome = DeliveryOutcome { status: DeliveryStatus::Delivered, attempts: 1, due_at: now(), answered: Some(204), error: None };
    store.record(webhook.id, ended.event_id, &outcome).await.unwrap();
    store.forget(now()).await.unwrap();
    assert_eq!(store.deliveries(payer, webhook.id, 10).await.unwrap().len(), 2);
    store.forget(later(1)).await.unwrap();
    store.forget(later(1)).await.unwrap();
    let kept: Vec<EventId> = store.deliveries(payer, webhook.id, 10).await.unwrap().iter().map(|delivery| delivery.event_id).collect();
    assert_eq!(kept, [pending.event_id]);
}
