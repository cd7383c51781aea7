//! The catalogue of packs.

use crate::app::App;
use serde_json::json;

const PLAN: &str = "/api/v1/admin/plans/starter";

async fn app_with_money() -> App {
    let app = App::new().await;
    app.put("/api/v1/admin/money", json!({"currency": "EUR", "minorUnitDigits": 2})).await.expect(201);
    app
}

#[tokio::test]
async fn a_plan_is_created_offered_replaced_and_deleted() {
    let app = app_with_money().await;
    let plan = json!({"provider": "openai", "tokens": 1_000_000, "priceMinorUnits": 999});
    let created = app.put(PLAN, plan.clone()).await.expect(201).body;
    assert_eq!((&created["name"], &created["priceMinorUnits"]), (&json!("starter"), &json!(999)));
    assert_eq!(app.get(PLAN).await.expect(200).body, created);
    assert_eq!(app.get("/api/v1/admin/plans").await.expect(200).body["items"], json!([created]));
    app.put(PLAN, plan).await.expect(200);
    app.put("/api/v1/admin/prices/all", json!({"provider": "qwen", "inputPerMillion": "2", "outputPerMillion": "8.5"})).await.expect(201);
    let catalogue = app.get("/api/v1/plans").await.expect(200).body;
    let starter = json!({"planId": "starter", "provider": "openai", "tokens": 1_000_000, "priceMinorUnits": 999, "currency": "EUR"});
    assert_eq!(catalogue["items"], json!([starter]));
    assert_eq!(catalogue["unitPrices"], json!([{"provider": "qwen", "perMillion": "8.5", "currency": "EUR"}]));
    app.delete(PLAN).await.expect(204);
    app.get(PLAN).await.refused(404, "not_found");
    assert_eq!(app.get("/api/v1/plans").await.expect(200).body["items"], json!([]));
}

#[tokio::test]
async fn a_plan_without_a_currency_of_nothing_or_of_nobody_is_refused() {
    let plan = json!({"provider": "openai", "tokens": 10, "priceMinorUnits": 1});
    App::new().await.put(PLAN, plan.clone()).await.refused(409, "conflict");
    let app = app_with_money().await;
    for (field, value) in [("tokens", json!(0)), ("tokens", json!(-1)), ("priceMinorUnits", json!(-1)), ("provider", json!("nobody"))] {
        let mut wrong = plan.clone();
        wrong[field] = value;
        app.put(PLAN, wrong).await.wrong(field);
    }
    assert!(app.store.document().plans.is_empty());
}
