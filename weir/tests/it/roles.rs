//! One process per role, and two of a role at once.

use crate::harness::{Answer, Setup, World, eventually};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn every_role_works_in_a_process_of_its_own_and_twice() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let base = Setup::distributed(data.path(), &world);
    let config = base.clone().roles("config-service");
    let auth = base.clone().roles("auth-service");
    let tokens = [base.clone().roles("token-service"), base.clone().roles("token-service")];
    let analytics = [base.clone().roles("analytics"), base.clone().roles("analytics")];
    let relays = [base.clone().roles("outbox-relay"), base.clone().roles("outbox-relay")];
    let stubs = base.clone().roles("provider-stubs");
    let urls = |setups: &[Setup; 2]| format!("{},{}", setups[0].url(), setups[1].url());
    let stub = |name: &str| base.env.iter().find(|(known, _)| known == name).map(|(_, address)| format!("http://{address}")).unwrap();
    let wired = |setup: &Setup| {
        setup
            .clone()
            .with("WEIR__CONFIG_SERVICE__URL", &config.url())
            .with("WEIR__SERVICES__CONFIG__URLS", &config.url())
            .with("WEIR__SERVICES__AUTH__URLS", &auth.url())
            .with("WEIR__SERVICES__TOKEN__URLS", &urls(&tokens))
            .with("WEIR__SERVICES__ANALYTICS__URLS", &urls(&analytics))
            .with("WEIR__PROVIDERS__OPENAI__BASE_URL", &stub("WEIR__STUBS__OPENAI__LISTEN"))
    };
    let all = [&config, &auth, &tokens[0], &tokens[1], &analytics[0], &analytics[1], &relays[0], &relays[1], &stubs];
    let mut processes: Vec<_> = all.iter().map(|setup| wired(setup).start()).collect();
    let gateways = [wired(&base.clone().roles("gateway")), wired(&base.clone().roles("gateway"))];
    let fronts: Vec<_> = gateways.iter().map(Setup::start).collect();

    let admin = fronts[0].client();
    let user = Uuid::new_v4();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 100_000, "reason": "test"}))
        .await
        .expect(201);
    let client = admin.key_for(user, None).await;
    for turn in 0..20 {
        let front = fronts[turn % 2].client();
        let key = client.clone();
        let sender = if turn % 2 == 0 { key } else { front };
        sender.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 10})).await.expect(200);
    }
    let prompted = json!({"provider": "openai", "model": "gpt-4o", "tokens": 50, "prompt": "hello"});
    client.post("/api/v1/tokens/consume", prompted).await.expect(200);
    let counted = |answer: &Answer| answer.body["totalEvents"] == json!(21);
    eventually(&client, "/api/v1/analytics/report?provider=openai", counted).await;
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);

    // The services believe only what the gateway signed.
    let direct = crate::harness::Client::new(&tokens[0].url(), "");
    let spoofed = [("x-user-id", "6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11"), ("x-user-roles", "ADMIN"), ("x-weir-identity", "e30.e30.")];
    direct.send(reqwest::Method::GET, "/api/v1/tokens/quota?provider=openai", None, &spoofed).await.expect(401);

    // One token-service and one analytics die; the others go on.
    processes.remove(2).kill();
    processes.remove(3).kill();
    for _ in 0..10 {
        client.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": 1})).await.expect(200);
    }
    let counted = |answer: &Answer| answer.body["totalEvents"] == json!(31);
    eventually(&client, "/api/v1/analytics/report?provider=openai", counted).await;
    assert!(processes.iter_mut().all(|process| process.interrupt() == Some(0)));
}
