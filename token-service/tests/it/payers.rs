//! Who may spend and see what.

use crate::world::*;
use domain::{
    access::{Caller, Role},
    ids::Payer,
};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// User 1 administers org 1, user 2 is a member, user 3 is a stranger; org 2 exists without them.
async fn world() -> World {
    let world = World::new();
    world.accounts.join(org(1), user(1), Role::OrgAdmin);
    world.accounts.join(org(1), user(2), Role::Member);
    world.accounts.join(org(2), user(9), Role::OrgAdmin);
    for payer in [Payer::User(user(1)), Payer::User(user(2)), Payer::User(user(3)), Payer::Org(org(1)), Payer::Org(org(2))] {
        world.grant(payer, 1_000).await;
    }
    world
}

fn body(user_id: Option<u128>, org_id: Option<u128>) -> Value {
    let mut body = json!({"provider": "openai", "tokens": 1});
    if let Some(number) = user_id {
        body["userId"] = json!(user(number));
    }
    if let Some(number) = org_id {
        body["orgId"] = json!(org(number));
    }
    body
}

/// What, who asks, which user and org it names, the status of a consume.
type Row = (&'static str, Caller, Option<u128>, Option<u128>, u16);

#[tokio::test]
async fn who_may_spend_for_whom() {
    let world = world().await;
    let matrix: [Row; 21] = [
        ("own pool", caller(1), None, None, 200),
        ("own pool, named", caller(1), Some(1), None, 200),
        ("another user's pool", caller(3), Some(1), None, 403),
        ("a pool of nobody", caller(3), Some(77), None, 403),
        ("an ORG_ADMIN, a member's own pool", caller(1), Some(2), None, 403),
        ("an administrator, anybody's pool", admin(), Some(3), None, 200),
        ("the bootstrap administrator without a user", admin(), None, None, 400),
        ("a member, the org's pool", caller(2), None, Some(1), 200),
        ("an ORG_ADMIN, the org's pool", caller(1), None, Some(1), 200),
        ("a stranger, the org's pool", caller(3), None, Some(1), 403),
        ("a stranger, an org that does not exist", caller(3), None, Some(88), 403),
        ("a member of another org", caller(2), None, Some(2), 403),
        ("an ORG_ADMIN for a member", caller(1), Some(2), Some(1), 200),
        ("an ORG_ADMIN for a stranger", caller(1), Some(3), Some(1), 403),
        ("a member for another member", caller(2), Some(1), Some(1), 403),
        ("a stranger for a member", caller(3), Some(2), Some(1), 403),
        ("an administrator for a member", admin(), Some(2), Some(1), 200),
        ("an administrator for a stranger", admin(), Some(3), Some(1), 403),
        ("a key of another org", restricted(caller(2), &[], &[org(2)]), None, Some(1), 403),
        ("a key of another provider", restricted(caller(2), &["gemini"], &[]), None, None, 403),
        ("a key of this provider and org", restricted(caller(2), &["openai"], &[org(1)]), None, Some(1), 200),
    ];
    for (what, caller, user_id, org_id, status) in matrix {
        for path in ["/api/v1/tokens/consume", "/api/v1/tokens/reserve"] {
            let (events, level) = (world.ledger.events().len(), world.buckets.total());
            let answer = world.post(&caller, path, &body(user_id, org_id)).await;
            let expected = if status == 200 && path.ends_with("reserve") { 201 } else { status };
            assert_eq!(answer.status.as_u16(), expected, "{what}: {}", answer.body);
            if status != 200 {
                assert_eq!((world.ledger.events().len(), world.buckets.total()), (events, level), "{what} left something behind");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_says_the_same_whether_the_other_exists_or_not() {
    let world = world().await;
    let refusal = |user_id, org_id| {
        let world = &world;
        async move {
            let mut body = world.consume(&caller(3), &body(user_id, org_id)).await.expect(403).body;
            body["timestamp"] = Value::Null;
            body
        }
    };
    assert_eq!(refusal(Some(1), None).await, refusal(Some(77), None).await);
    assert_eq!(refusal(None, Some(1)).await, refusal(None, Some(88)).await);
}

#[tokio::test]
async fn the_org_pays_for_its_member_and_the_member_is_named() {
    let world = world().await;
    world.consume(&caller(2), &body(None, Some(1))).await.expect(200);
    assert_eq!((world.remaining(Payer::Org(org(1))), world.remaining(Payer::User(user(2)))), (999, 1_000));
    let charged = world.ledger.events().pop().unwrap();
    assert_eq!((charged.payer, charged.user_id), (Payer::Org(org(1)), Some(user(2))));
}

#[tokio::test]
async fn roles_are_read_once_and_a_removed_member_stops_spending_within_the_polls_of_the_revision() {
    let world = world().await;
    let spends = (0..64).map(|_| world.consume(&caller(2), &body(None, Some(1))));
    assert!(futures::future::join_all(spends).await.iter().all(|answer| answer.status == 200));
    // Once more where the poll has seen the memberships of this test arrive.
    assert!(world.accounts.reads.load(Ordering::SeqCst) <= 2, "the roles are read once for all who ask");
    world.accounts.leave(org(1), user(2));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while world.consume(&caller(2), &body(None, Some(1))).await.status != 403 {
        assert!(std::time::Instant::now() < deadline, "a removed member may still spend after 2 s");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_user_has_one_bucket_however_the_id_is_written() {
    let world = world().await;
    let upper = user(1).to_string().to_uppercase();
    for spelling in [json!(user(1)), json!(upper), json!(format!(" {upper} "))] {
        world.consume(&caller(1), &json!({"userId": spelling, "provider": "OPENAI", "tokens": 10})).await.expect(200);
    }
    assert_eq!((world.buckets.keys().len(), world.buckets.total()), (1, 30));
}

#[tokio::test]
async fn charges_are_seen_by_those_they_concern() {
    let world = world().await;
    let answer = world.consume(&caller(2), &body(None, Some(1))).await.expect(200);
    let path = format!("/api/v1/tokens/charges/{}", answer.body["chargeId"].as_str().unwrap());
    for (who, status) in [(caller(2), 200), (caller(1), 200), (admin(), 200), (caller(3), 404), (caller(9), 404)] {
        assert_eq!(world.get(&who, &path).await.status.as_u16(), status, "{:?}", who.user_id);
    }
    // What belongs to somebody else looks like what does not exist.
    let strip = |mut body: Value| {
        body["timestamp"] = Value::Null;
        body
    };
    let foreign = world.get(&caller(3), &path).await.body;
    let missing = world.get(&caller(3), "/api/v1/tokens/charges/0199aaaa-0000-7001-8000-000000000000").await.expect(404).body;
    assert_eq!(strip(foreign), strip(missing));
    for (path, key) in [("settle", "tokens"), ("release", "")] {
        let mut end = json!({"chargeId": answer.body["chargeId"]});
        if !key.is_empty() {
            end[key] = json!(1);
        }
        world.post(&caller(3), &format!("/api/v1/tokens/{path}"), &end).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn lists_show_members_their_own_and_org_admins_everything() {
    let world = world().await;
    world.consume(&caller(1), &body(None, Some(1))).await.expect(200);
    for _ in 0..3 {
        world.consume(&caller(2), &body(None, Some(1))).await.expect(200);
    }
    let list = |who: Caller, query: String| {
        let world = &world;
        async move { world.get(&who, &format!("/api/v1/tokens/charges?{query}")).await }
    };
    let count = |answer: &Answer| answer.body["items"].as_array().unwrap().len();
    let of_org = format!("orgId={}", org(1));
    assert_eq!(count(&list(caller(2), of_org.clone()).await), 3);
    assert_eq!(count(&list(caller(1), of_org.clone()).await), 4);
    assert_eq!(count(&list(caller(1), format!("{of_org}&userId={}", user(2))).await), 3);
    list(caller(2), format!("{of_org}&userId={}", user(1))).await.expect(404);
    list(caller(3), of_org.clone()).await.expect(404);
    list(caller(3), format!("userId={}", user(1))).await.expect(404);
    assert_eq!(count(&list(caller(1), String::new()).await), 0, "the org paid, not the user");
    // Pages: newest first, without gaps or repeats.
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(admin(), format!("{of_org}&limit=3{cursor}")).await.expect(200);
        seen.extend(page.body["items"].as_array().unwrap().iter().map(|item| item["chargeId"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 4);
    assert!(seen.is_sorted_by(|newer, older| newer > older));
}

#[tokio::test]
async fn quotas_are_seen_by_owner_members_and_administrators() {
    let world = world().await;
    let of_user = format!("/api/v1/tokens/quota?userId={}&provider=openai", user(1));
    let of_org = format!("/api/v1/tokens/quota/org?orgId={}&provider=openai", org(1));
    for (who, path, status) in [
        (caller(1), &of_user, 200),
        (admin(), &of_user, 200),
        (caller(2), &of_user, 404),
        (caller(2), &of_org, 200),
        (caller(1), &of_org, 200),
        (admin(), &of_org, 200),
        (caller(3), &of_org, 404),
        (restricted(caller(2), &[], &[org(2)]), &of_org, 404),
    ] {
        assert_eq!(world.get(&who, path).await.status.as_u16(), status, "{:?} {path}", who.user_id);
    }
}

#[tokio::test]
async fn the_pool_of_the_request_pays_and_no_other_helps_out() {
    let world = world().await;
    let spend = |org: Option<u128>, tokens: i64| {
        let mut request = body(None, org);
        request["tokens"] = json!(tokens);
        request
    };
    world.consume(&caller(2), &spend(Some(1), 995)).await.expect(200);
    world.advance(1_000);
    let refused = world.consume(&caller(2), &spend(Some(1), 6)).await.expect_problem(402, "quota_exhausted");
    assert_eq!((&refused.body["scope"], &refused.body["remaining"]), (&json!("ORG"), &json!(5)));
    assert_eq!(world.remaining(Payer::User(user(2))), 1_000, "the member's own tokens are not the org's");
    world.consume(&caller(2), &spend(None, 1_000)).await.expect(200);
    world.advance(1_000);
    let refused = world.consume(&caller(2), &spend(None, 1)).await.expect_problem(402, "quota_exhausted");
    assert_eq!((&refused.body["scope"], world.remaining(Payer::Org(org(1)))), (&json!("USER"), 5));
}
