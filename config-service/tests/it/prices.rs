//! The currency is set once; prices are decimals with a beginning.

use crate::app::App;
use serde_json::{Value, json};

const MONEY: &str = "/api/v1/admin/money";
const PRICE: &str = "/api/v1/admin/prices/gpt";

fn price() -> Value {
    json!({"provider": "openai", "model": "gpt-4o", "inputPerMillion": "2.50", "outputPerMillion": "10", "cachedInputPerMillion": "1.25"})
}

async fn app_with_money() -> App {
    let app = App::new().await;
    app.put(MONEY, json!({"currency": "USD", "minorUnitDigits": 6})).await.expect(201);
    app
}

#[tokio::test]
async fn the_currency_is_set_once_and_before_the_first_price() {
    let app = App::new().await;
    app.get(MONEY).await.refused(404, "not_found");
    app.put(PRICE, price()).await.refused(409, "conflict");
    app.put(MONEY, json!({"currency": "usd", "minorUnitDigits": 2})).await.wrong("currency");
    app.put(MONEY, json!({"currency": "USD", "minorUnitDigits": 10})).await.wrong("minorUnitDigits");
    let money = json!({"currency": "USD", "minorUnitDigits": 6});
    app.put(MONEY, money.clone()).await.expect(201);
    app.put(MONEY, money.clone()).await.expect(200);
    app.put(MONEY, json!({"currency": "USD", "minorUnitDigits": 2})).await.refused(409, "conflict");
    assert_eq!(app.get(MONEY).await.expect(200).body, money);
}

#[tokio::test]
async fn a_price_is_created_read_replaced_and_deleted() {
    let app = app_with_money().await;
    let created = app.put(PRICE, price()).await.expect(201).body;
    assert_eq!((&created["name"], &created["inputPerMillion"]), (&json!("gpt"), &json!("2.5")));
    assert_eq!(app.get(PRICE).await.expect(200).body, created);
    app.put(PRICE, price()).await.expect(200);
    let mut later = price();
    later["effectiveFrom"] = json!("2027-01-01T00:00:00Z");
    app.put("/api/v1/admin/prices/gpt-2027", later.clone()).await.expect(201);
    app.put("/api/v1/admin/prices/gpt-again", later).await.refused(409, "conflict");
    let listed = app.get("/api/v1/admin/prices").await.expect(200).body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    app.delete(PRICE).await.expect(204);
    app.get(PRICE).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_price_that_is_no_plain_decimal_or_of_nobody_is_refused() {
    let app = app_with_money().await;
    for (field, value) in [
        ("inputPerMillion", json!(2.5)),
        ("inputPerMillion", json!("-1")),
        ("outputPerMillion", json!("0.0000000001")),
        ("outputPerMillion", json!("1000001")),
        ("cachedInputPerMillion", json!("1e2")),
        ("provider", json!("nobody")),
        ("effectiveFrom", json!("soon")),
    ] {
        let mut wrong = price();
        wrong[field] = value;
        app.put(PRICE, wrong).await.wrong(field);
    }
    assert!(app.store.document().prices.is_empty());
}
