//! The story of a charge through every stage, on both sets of stores.

use crate::harness::{Answer, Process, Setup, World, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

fn stages<'a>(answer: &'a Answer, stage: &str, field: &str) -> Vec<&'a Value> {
    answer.body["events"].as_array().unwrap().iter().map(|event| &event[stage][field]).collect()
}

async fn a_charge_tells_where_it_came_to(process: &Process) {
    let admin = process.client();
    let (owner, member) = (Uuid::new_v4(), Uuid::new_v4());
    let owner_client = admin.key_for(owner, Some(&["tokens:consume", "tokens:read", "orgs:manage"])).await;
    let member_client = admin.key_for(member, None).await;
    let org = owner_client.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");
    owner_client.put(&format!("/api/v1/orgs/{org}/members/{member}"), json!({"role": "MEMBER"})).await.expect(200);
    let grant = json!({"orgId": org, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let spend = |tokens: i64| json!({"orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": tokens});
    owner_client.post("/api/v1/tokens/consume", spend(200)).await.expect(200);
    let held = member_client.post("/api/v1/tokens/reserve", spend(50)).await.expect(201).str("chargeId");
    let path = format!("/api/v1/tokens/charges/{held}/explain");

    let told = member_client.get(&path).await.expect(200);
    let limits = told.body["letInBy"]["limits"].as_array().unwrap();
    let seen: Vec<_> = limits.iter().map(|level| (level["limit"].as_str().unwrap(), level["capacity"].as_i64().unwrap())).collect();
    assert_eq!(seen, [("org-default", 10_000), ("user-default", 1_000)]);
    let (before, after) = (limits[1]["usedBefore"].as_i64().unwrap(), limits[1]["usedAfter"].as_i64().unwrap());
    assert_eq!((before, after), (0, 50), "nobody but the member has spent from the member's own");
    assert!(limits[0]["usedAfter"].as_i64().unwrap() >= 50);
    assert_eq!((&told.body["eventsComplete"], told.body["events"].as_array().unwrap().len()), (&json!(true), 1));
    assert_eq!(told.body["events"][0]["outbox"]["seq"], told.body["charge"]["seq"]);

    member_client.post("/api/v1/tokens/settle", json!({"chargeId": held, "tokens": 70})).await.expect(200);
    let counted = |answer: &Answer| stages(answer, "rollups", "status") == [&json!("NOT_COUNTED"), &json!("COUNTED")];
    let told = eventually(&admin, &path, counted).await;
    let kinds: Vec<_> = told.body["events"].as_array().unwrap().iter().map(|event| (&event["type"], &event["tokens"])).collect();
    assert_eq!(kinds, [(&json!("CHARGE_HELD"), &json!(50)), (&json!("CHARGE_SETTLED"), &json!(70))]);
    assert_eq!(stages(&told, "raw", "status"), [&json!("STORED"); 2]);
    assert_eq!(stages(&told, "outbox", "published"), [&json!(true); 2]);
    assert_eq!(stages(&told, "log", "status"), [&json!("WRITTEN"); 2]);
    let offsets: Vec<i64> = stages(&told, "log", "offset").into_iter().map(|offset| offset.as_i64().unwrap()).collect();
    assert!(offsets[0] < offsets[1], "{offsets:?}");
    let cells = told.body["events"][1]["rollups"]["cells"].as_array().unwrap();
    let is = |cell: &Value, dimension: &str| cell["dimension"].as_str().unwrap().starts_with(dimension);
    let tokens = |scope: &str, dimension: &str| {
        let cell = cells.iter().find(|cell| cell["scope"] == scope && cell["grain"] == "day" && is(cell, dimension));
        cell.map(|cell| cell["tokens"].as_i64().unwrap())
    };
    assert_eq!(tokens("TENANT", "model:openai/gpt-4o"), Some(270));
    assert_eq!(tokens("TENANT", &format!("user:{member}/openai/")), Some(70));
    assert_eq!(tokens("PLATFORM", &format!("payer:{org}/openai")), Some(270));

    // A member sees the own totals, not the org's and not the platform's.
    let own = member_client.get(&path).await.expect(200);
    let shown = own.body["events"][1]["rollups"]["cells"].as_array().unwrap();
    let dimension = format!("user:{member}/openai/");
    assert!(!shown.is_empty() && shown.iter().all(|cell| cell["scope"] == "TENANT" && is(cell, &dimension)), "{shown:#?}");
    admin.key_for(Uuid::new_v4(), None).await.get(&path).await.expect(404);
}

#[tokio::test]
async fn a_charge_tells_where_it_came_to_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    a_charge_tells_where_it_came_to(&Setup::embedded(data.path()).start()).await;
}

#[tokio::test]
async fn a_charge_tells_where_it_came_to_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    a_charge_tells_where_it_came_to(&Setup::distributed(data.path(), &world).start()).await;
}
