//! Tiers of users and orgs.

use crate::app::{App, admin, manager};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn an_administrator_puts_users_and_orgs_on_tiers_that_exist() {
    let app = App::new();
    let user = Uuid::new_v4();
    let org = app.post(&admin(), "/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");
    let put = app.put(&admin(), &format!("/api/v1/admin/users/{user}/tier"), json!({"tier": "PRO"})).await.expect(200);
    assert_eq!(put.body, json!({"userId": user, "tier": "PRO"}));
    let put = app.put(&admin(), &format!("/api/v1/admin/orgs/{org}/tier"), json!({"tier": "ENTERPRISE"})).await.expect(200);
    assert_eq!(put.body, json!({"orgId": org, "tier": "ENTERPRISE"}));
    let rows = app.accounts.rows();
    assert_eq!((rows.user_tiers.len(), rows.org_tiers.len()), (1, 1));
}

#[tokio::test]
async fn unknown_tiers_orgs_and_callers_are_refused_and_change_nothing() {
    let app = App::new();
    let user = format!("/api/v1/admin/users/{}/tier", Uuid::new_v4());
    let org = format!("/api/v1/admin/orgs/{}/tier", Uuid::new_v4());
    let before = app.accounts.rows();
    for path in [&user, &org] {
        let refused = app.put(&admin(), path, json!({"tier": "GOLD"})).await.wrong("tier", "unknown tier");
        assert_eq!(refused.body["allowed"], json!(["ADMIN", "ANONYMOUS", "ENTERPRISE", "FREE", "PRO", "USER"]));
        app.put(&admin(), path, json!({})).await.wrong("tier", "tier is required");
        let refused = app.put(&manager(), path, json!({"tier": "PRO"})).await.refused(403, "forbidden");
        assert_eq!(refused.body["requiredScope"], "admin");
        // Told before the body is looked at.
        app.put(&manager(), path, json!("nonsense")).await.refused(403, "forbidden");
    }
    app.put(&admin(), &org, json!({"tier": "PRO"})).await.refused(404, "not_found");
    app.put(&admin(), "/api/v1/admin/users/x/tier", json!({"tier": "PRO"})).await.wrong("userId", "invalid userId");
    assert_eq!(app.accounts.rows(), before);
}
