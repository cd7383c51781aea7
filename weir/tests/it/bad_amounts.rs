//! Well-formed requests that cannot be: amounts that no balance can count, ends of holds that are over or somebody else's, terms changed
//! in the middle, lists that are too long. Each is answered with its reason and changes nothing.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

/// 2^53 − 1, the largest amount there is.
const MOST: i64 = 9_007_199_254_740_991;

/// A user with a key of its own and what it may spend.
struct Customer {
    user: Uuid,
    admin: Client,
    client: Client,
}

impl Customer {
    async fn with(admin: &Client, tokens: i64) -> Self {
        let user = Uuid::new_v4();
        let customer = Self { user, admin: admin.clone(), client: admin.key_for(user, None).await };
        customer.grant(tokens).await.expect(201);
        customer
    }

    async fn grant(&self, tokens: i64) -> Answer {
        let grant = json!({"userId": self.user, "provider": "openai", "tokens": tokens, "reason": "test"});
        self.admin.post("/api/v1/admin/pools/grant", grant).await
    }

    async fn hold(&self, tokens: i64, ttl_secs: i64) -> String {
        let hold = json!({"provider": "openai", "tokens": tokens, "ttlSeconds": ttl_secs});
        self.client.post("/api/v1/tokens/reserve", hold).await.expect(201).str("chargeId")
    }

    async fn settle(&self, charge: &str, tokens: i64) -> Answer {
        self.client.post("/api/v1/tokens/settle", json!({"chargeId": charge, "tokens": tokens})).await
    }

    async fn release(&self, charge: &str) -> Answer {
        self.client.post("/api/v1/tokens/release", json!({"chargeId": charge})).await
    }

    async fn status(&self, charge: &str) -> String {
        self.client.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(200).str("status")
    }

    /// Remaining, held, debt.
    async fn balance(&self) -> [Value; 3] {
        let quota = self.client.get("/api/v1/tokens/quota?provider=openai").await.expect(200).body;
        ["remainingTokens", "held", "debt"].map(|field| quota[field].clone())
    }
}

fn assert_names(answer: &Answer, field: &str, text: &str) {
    let error = &answer.body["errors"][0];
    assert!(error["field"] == field && error["message"].as_str().unwrap().contains(text), "{field}, {text}: {:#}", answer.body);
}

async fn an_amount_that_overflows_a_balance_changes_nothing(admin: &Client) {
    let customer = Customer::with(admin, 100).await;
    assert_names(&customer.grant(MOST).await.expect(400), "tokens", "9007199254740991");
    assert_eq!(customer.balance().await, [json!(100), json!(0), json!(0)]);
    customer.grant(MOST - 100).await.expect(201);
    customer.grant(1).await.expect(400);
    let (full, allowance) = (customer.balance().await, json!({"userId": customer.user, "provider": "openai", "allowance": 1}));
    assert_names(&admin.put("/api/v1/admin/pools", allowance).await.expect(400), "allowance", "9007199254740991");
    assert_eq!((&full[0], customer.balance().await), (&json!(MOST), full.clone()));

    let debtor = Customer::with(admin, 20).await;
    let (first, second) = (debtor.hold(10, 60).await, debtor.hold(10, 60).await);
    debtor.settle(&first, MOST).await.expect(200);
    let before = debtor.balance().await;
    assert_eq!(before, [json!(0), json!(10), json!(MOST - 10)]);
    assert_names(&debtor.settle(&second, MOST).await.expect(400), "tokens", "9007199254740991");
    assert_eq!((debtor.balance().await, debtor.status(&second).await.as_str()), (before, "HELD"));
    debtor.settle(&second, 10).await.expect(200);
}

async fn a_foreign_hold_is_ended_by_nobody_else(admin: &Client) {
    let (owner, stranger) = (Customer::with(admin, 100).await, Customer::with(admin, 100).await);
    let charge = owner.hold(30, 60).await;
    let missing = format!("{}{:012x}", &charge[..24], 7);
    for (path, mut body) in [("settle", json!({"tokens": 1})), ("release", json!({}))] {
        let mut said = Vec::new();
        for id in [&charge, &missing] {
            body["chargeId"] = json!(id);
            let refused = stranger.client.post(&format!("/api/v1/tokens/{path}"), body.clone()).await.expect(404);
            said.push((refused.body["code"].clone(), refused.body["message"].clone()));
        }
        assert_eq!(said[0], said[1], "what is somebody else's looks like what does not exist");
    }
    stranger.client.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(404);
    assert_eq!((owner.status(&charge).await.as_str(), owner.balance().await), ("HELD", [json!(70), json!(30), json!(0)]));
    owner.release(&charge).await.expect(200);
    assert_eq!(stranger.balance().await, [json!(100), json!(0), json!(0)]);
}

async fn an_expired_hold_is_released_no_more_and_settled_late(admin: &Client) {
    let customer = Customer::with(admin, 100).await;
    let charge = customer.hold(40, 1).await;
    let swept = |answer: &Answer| answer.body["status"] == "EXPIRED";
    eventually(&customer.client, &format!("/api/v1/tokens/charges/{charge}"), swept).await;
    for _ in 0..2 {
        let released = customer.release(&charge).await.expect(200);
        assert_eq!((&released.body["status"], &released.body["returned"]), (&json!("EXPIRED"), &json!(40)));
        assert_eq!(customer.balance().await, [json!(100), json!(0), json!(0)], "it was returned once, when it expired");
    }
    assert_eq!(customer.settle(&charge, 25).await.expect(200).body["late"], true);
    customer.release(&charge).await.expect(422);
    assert_eq!(customer.balance().await, [json!(75), json!(0), json!(0)]);
}

async fn terms_changed_in_the_middle_of_a_period_keep_its_usage(admin: &Client) {
    let user = Uuid::new_v4();
    let client = admin.key_for(user, None).await;
    let set = |allowance: i64, period: &'static str, zone: &'static str| {
        let terms = json!({"userId": user, "provider": "openai", "allowance": allowance, "period": period, "timeZone": zone});
        admin.put("/api/v1/admin/pools", terms)
    };
    let month = set(100, "MONTH", "Europe/Berlin").await.expect(201);
    client.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": 60})).await.expect(200);
    for (allowance, period, zone, remaining) in
        [(30, "DAY", "Asia/Tokyo", 0), (200, "WEEK", "UTC", 140), (200, "NONE", "UTC", 140), (100, "MONTH", "Europe/Berlin", 40)]
    {
        let changed = set(allowance, period, zone).await.expect(200);
        assert_eq!(changed.body["remainingTokens"], remaining, "{allowance} {period}: {:#}", changed.body);
        assert_eq!(changed.body["current"]["resetsAt"], month.body["current"]["resetsAt"], "the running period ends as it was begun");
    }
    let refused = client.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": 41})).await.expect(402);
    assert_eq!(refused.body["remaining"], 40);
}

async fn places_on_no_map_and_limits_without_sense_are_refused_by_name(admin: &Client) {
    let user = Uuid::new_v4();
    for zone in ["Mars/Olympus", "europe/berlin ", "+01:00", "", "../../etc/passwd"] {
        let pool = json!({"userId": user, "provider": "openai", "allowance": 1, "period": "DAY", "timeZone": zone});
        assert_names(&admin.put("/api/v1/admin/pools", pool).await.expect(400), "timeZone", "timeZone");
        let budget = json!({"userId": user, "limit": 1, "period": "DAY", "timeZone": zone});
        assert_names(&admin.put("/api/v1/admin/budgets", budget).await.expect(400), "timeZone", "timeZone");
    }
    admin.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(404);
    for (field, terms) in [
        ("capacity", json!({"capacity": 0, "leakRatePerSecond": 1})),
        ("capacity", json!({"capacity": -1, "leakRatePerSecond": 1})),
        ("capacity", json!({"capacity": MOST, "leakRatePerSecond": 1})),
        ("leakRatePerSecond", json!({"capacity": 1, "leakRatePerSecond": 0})),
        ("leakRatePerSecond", json!({"capacity": 1, "leakRatePerSecond": 1e30})),
        ("leakRatePerSecond", json!({"capacity": 1_000_000_000, "leakRatePerSecond": 0.001})),
        ("windowSeconds", json!({"capacity": 1, "algorithm": "FIXED_WINDOW", "windowSeconds": 0})),
        ("windowSeconds", json!({"capacity": 1, "algorithm": "SLIDING_WINDOW", "windowSeconds": 100_000_000})),
        ("windowSeconds", json!({"capacity": 1, "leakRatePerSecond": 1, "windowSeconds": 60})),
        ("capacity", json!({"capacity": 0, "algorithm": "CONCURRENCY"})),
        ("scope", json!({"capacity": 1, "algorithm": "CONCURRENCY", "scope": "PROVIDER"})),
    ] {
        let mut limit = json!({"scope": "USER"});
        limit.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        assert_names(&admin.put("/api/v1/admin/limits/absurd", limit).await.expect(400), field, field);
    }
    admin.get("/api/v1/admin/limits/absurd").await.expect(404);
}

async fn a_list_of_1001_is_refused_as_a_whole(admin: &Client) {
    let customer = Customer::with(admin, 10_000).await;
    let consume = vec![json!({"provider": "openai", "tokens": 1}); 1_001];
    let refused = customer.client.post("/api/v1/tokens/consume/batch", json!({"items": consume})).await.expect(400);
    assert_names(&refused, "items", "1001 entries, it takes 1 to 1000");
    let event = |id: usize| {
        let data = json!({"provider": "openai", "tokens": 1});
        json!({"specversion": "1.0", "id": id.to_string(), "source": "/it", "type": "com.example.tokens", "data": data})
    };
    let events = json!((0..1_001).map(event).collect::<Vec<_>>());
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let refused = customer.client.post_bytes("/api/v1/events", events.to_string().into(), &batch).await.expect(400);
    assert!(refused.str("message").contains("1000"), "{:#}", refused.body);
    assert_eq!(customer.balance().await, [json!(10_000), json!(0), json!(0)]);
}

async fn what_cannot_be_changes_nothing(process: &Process) {
    let admin = process.client();
    an_amount_that_overflows_a_balance_changes_nothing(&admin).await;
    a_foreign_hold_is_ended_by_nobody_else(&admin).await;
    an_expired_hold_is_released_no_more_and_settled_late(&admin).await;
    terms_changed_in_the_middle_of_a_period_keep_its_usage(&admin).await;
    places_on_no_map_and_limits_without_sense_are_refused_by_name(&admin).await;
    a_list_of_1001_is_refused_as_a_whole(&admin).await;
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
}

#[tokio::test]
async fn what_cannot_be_changes_nothing_in_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    what_cannot_be_changes_nothing(&Setup::embedded(data.path()).start()).await;
}

#[tokio::test]
async fn what_cannot_be_changes_nothing_on_the_real_servers() {
    let (data, world) = (tempfile::tempdir().unwrap(), World::new());
    world.migrate(data.path());
    what_cannot_be_changes_nothing(&Setup::distributed(data.path(), &world).start()).await;
}
