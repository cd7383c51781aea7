//! Orgs and their members: who sees and changes what.

use crate::app::{App, admin, confined_to, id, manager, member, user};
use axum::http::Method;
use domain::{
    access::{Caller, Scope},
    ids::OrgId,
};
use serde_json::{Value, json};
use uuid::Uuid;

const ORGS: &str = "/api/v1/orgs";

struct Acme {
    app: App,
    org: String,
    org_admin: Caller,
    member: Caller,
}

async fn acme() -> Acme {
    let (app, org_admin, plain) = (App::new(), manager(), manager());
    let org = app.post(&org_admin, ORGS, json!({"name": " Acme "})).await.expect(201).str("orgId");
    app.put(&org_admin, &format!("{ORGS}/{org}/members/{}", id(&plain)), json!({"role": "MEMBER"})).await.expect(200);
    Acme { app, org, org_admin, member: plain }
}

#[tokio::test]
async fn whoever_makes_an_org_is_its_org_admin() {
    let (app, caller) = (App::new(), manager());
    let made = app.post(&caller, ORGS, json!({"name": " Acme "})).await.expect(201);
    assert_eq!(made.headers["location"], format!("{ORGS}/{}", made.str("orgId")));
    assert_eq!(made.body, json!({"orgId": made.body["orgId"], "name": "Acme", "createdAt": "2026-11-21T12:00:00.250Z"}));
    let members = app.get(&caller, &format!("{ORGS}/{}/members", made.str("orgId"))).await.expect(200).body;
    assert_eq!(members, json!({"items": [{"userId": id(&caller), "role": "ORG_ADMIN"}]}));
    // The bootstrap administrator is no user and no member.
    let without = app.post(&admin(), ORGS, json!({"name": "Empty"})).await.expect(201).str("orgId");
    assert_eq!(app.get(&admin(), &format!("{ORGS}/{without}/members")).await.expect(200).body, json!({"items": []}));
}

#[tokio::test]
async fn bad_orgs_are_refused_and_leave_nothing_behind() {
    let (app, caller) = (App::new(), manager());
    let before = app.accounts.rows();
    for body in [
        json!({}),
        json!({"name": " "}),
        json!({"name": 1}),
        json!({"name": "x".repeat(101)}),
        json!({"name": "a\nb"}),
        json!({"name": "a", "id": 1}),
    ] {
        app.post(&caller, ORGS, body).await.refused(400, "validation_failed");
    }
    let refused = app.post(&member(), ORGS, json!({"name": "Acme"})).await.refused(403, "forbidden");
    assert_eq!(refused.body["requiredScope"], "orgs:manage");
    let confined = confined_to(&[OrgId(Uuid::new_v4())], &caller);
    app.post(&confined, ORGS, json!({"name": "Acme"})).await.refused(403, "forbidden");
    app.send(None, Method::POST, ORGS, &[], Some(&json!({"name": "Acme"}))).await.refused(401, "unauthenticated");
    assert_eq!(app.accounts.rows(), before);
}

#[tokio::test]
async fn an_outsider_cannot_tell_a_foreign_org_from_a_missing_one() {
    let Acme { app, org, org_admin, .. } = acme().await;
    let before = app.accounts.rows();
    let missing = Uuid::new_v4().to_string();
    // Also a member whose key is confined to another org.
    let confined = confined_to(&[OrgId(Uuid::new_v4())], &org_admin);
    for outsider in [manager(), confined] {
        let mut answers = Vec::new();
        for org in [&org, &missing] {
            let member = format!("{ORGS}/{org}/members/{}", id(&outsider));
            answers.push([
                app.get(&outsider, &format!("{ORGS}/{org}")).await.refused(404, "not_found"),
                app.get(&outsider, &format!("{ORGS}/{org}/members")).await.refused(404, "not_found"),
                app.put(&outsider, &member, json!({"role": "ORG_ADMIN"})).await.refused(404, "not_found"),
                app.delete(&outsider, &member).await.refused(404, "not_found"),
            ]);
        }
        for (foreign, missing) in answers[0].iter().zip(&answers[1]) {
            assert_eq!(foreign.body["message"], missing.body["message"]);
        }
    }
    assert_eq!(app.accounts.rows(), before);
}

/// Every kind of caller against every call, in one org.
#[tokio::test]
async fn each_role_may_do_what_it_may_and_nothing_else() {
    let all = |role: &Caller| Caller { scopes: [Scope::TokensRead, Scope::OrgsManage].into(), ..role.clone() };
    let only = |role: &Caller, scope| Caller { scopes: [scope].into(), ..role.clone() };
    for (kind, expected) in [
        ("ORG_ADMIN", [200, 200, 200, 204]),
        ("ORG_ADMIN, only tokens:read", [200, 200, 403, 403]),
        ("ORG_ADMIN, only orgs:manage", [200, 200, 200, 204]),
        ("ORG_ADMIN, only tokens:consume", [403, 403, 403, 403]),
        ("MEMBER", [200, 200, 403, 403]),
        ("MEMBER, only tokens:consume", [403, 403, 403, 403]),
        ("outsider", [404, 404, 404, 404]),
        ("outsider, only tokens:read", [404, 404, 403, 403]),
        ("administrator", [200, 200, 200, 204]),
    ] {
        let Acme { app, org, org_admin, member } = acme().await;
        let caller = match kind {
            "ORG_ADMIN" => all(&org_admin),
            "ORG_ADMIN, only tokens:read" => only(&org_admin, Scope::TokensRead),
            "ORG_ADMIN, only orgs:manage" => only(&org_admin, Scope::OrgsManage),
            "ORG_ADMIN, only tokens:consume" => only(&org_admin, Scope::TokensConsume),
            "MEMBER" => all(&member),
            "MEMBER, only tokens:consume" => only(&member, Scope::TokensConsume),
            "outsider" => manager(),
            "outsider, only tokens:read" => user(&[Scope::TokensRead]),
            _ => admin(),
        };
        let before = app.accounts.rows();
        let target = format!("{ORGS}/{org}/members/{}", id(&member));
        let statuses = [
            app.get(&caller, &format!("{ORGS}/{org}")).await.status.as_u16(),
            app.get(&caller, &format!("{ORGS}/{org}/members")).await.status.as_u16(),
            app.put(&caller, &target, json!({"role": "ORG_ADMIN"})).await.status.as_u16(),
            app.delete(&caller, &target).await.status.as_u16(),
        ];
        assert_eq!(statuses, expected, "{kind}");
        assert_eq!(app.accounts.rows() == before, expected[2] != 200, "{kind}");
    }
}

#[tokio::test]
async fn members_are_put_changed_and_removed() {
    let Acme { app, org, org_admin, .. } = acme().await;
    let newcomer = Uuid::new_v4();
    let path = format!("{ORGS}/{org}/members/{newcomer}");
    for role in ["MEMBER", "ORG_ADMIN", "MEMBER"] {
        let put = app.put(&org_admin, &path, json!({"role": role})).await.expect(200);
        assert_eq!(put.body, json!({"orgId": org, "userId": newcomer, "role": role}));
    }
    app.delete(&org_admin, &path).await.expect(204);
    app.delete(&org_admin, &path).await.refused(404, "not_found");
    let refused = app.put(&org_admin, &path, json!({"role": "OWNER"})).await.refused(400, "validation_failed");
    assert_eq!(refused.body["errors"][0]["allowed"], json!(["ORG_ADMIN", "MEMBER"]));
    app.put(&org_admin, &path, json!({"role": "MEMBER", "limits": {}})).await.refused(400, "validation_failed");
    app.put(&org_admin, &path, json!({})).await.wrong("role", "role is required");
    app.put(&org_admin, &format!("{ORGS}/{org}/members/x"), json!({"role": "MEMBER"})).await.wrong("userId", "invalid userId");
    app.get(&org_admin, &format!("{ORGS}/x")).await.wrong("orgId", "invalid orgId");
    app.put(&admin(), &format!("{ORGS}/{}/members/{newcomer}", Uuid::new_v4()), json!({"role": "MEMBER"})).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_members_limits_are_set_one_by_one_and_lifted_without_a_number() {
    let Acme { app, org, org_admin, member } = acme().await;
    let path = format!("{ORGS}/{org}/members/{}", id(&member));
    let limits = json!([
        {"limit": 500, "period": "DAY", "provider": "OpenAI", "thresholds": [{"percent": 80}]},
        {"limit": 9000, "period": "MONTH", "timeZone": "Europe/Berlin"},
    ]);
    let put = app.put(&org_admin, &path, json!({"role": "MEMBER", "limits": limits})).await.expect(200);
    let shown: Vec<_> = put.body["limits"].as_array().unwrap().iter().map(|limit| (&limit["provider"], &limit["remaining"])).collect();
    assert_eq!(shown, [(&json!("openai"), &json!(500)), (&Value::Null, &json!(9000))]);
    assert_eq!(put.body["limits"][0]["memberId"], json!(id(&member)));
    assert_eq!(put.body["limits"][1]["resetsAt"], "2026-11-30T23:00:00.000Z");
    let lifted = app.put(&org_admin, &path, json!({"role": "MEMBER", "limits": [{"period": "MONTH"}]})).await.expect(200);
    assert_eq!(lifted.body["limits"][0]["limit"], Value::Null);
    app.put(&member, &path, json!({"role": "MEMBER", "limits": [{"limit": 1, "period": "DAY"}]})).await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_by_its_field() {
    let Acme { app, org, org_admin, member } = acme().await;
    let path = format!("{ORGS}/{org}/members/{}", id(&member));
    for (limit, field) in [
        (json!({"limit": -1, "period": "DAY"}), "limit"),
        (json!({"limit": 9_007_199_254_740_992_i64, "period": "DAY"}), "limit"),
        (json!({"limit": 1}), "period"),
        (json!({"limit": 1, "period": "YEAR"}), "period"),
        (json!({"limit": 1, "period": "DAY", "timeZone": "Europe/Atlantis"}), "timeZone"),
        (json!({"limit": 1, "period": "DAY", "provider": "nobody"}), "provider"),
        (json!({"limit": 1, "period": "DAY", "unit": "MONEY"}), "unit"),
        (json!({"limit": 1, "period": "DAY", "unit": "HOURS"}), "unit"),
        (json!({"limit": 1, "period": "DAY", "thresholds": [{"percent": 0}]}), "thresholds"),
        (json!({"limit": 1, "period": "DAY", "thresholds": [{"percent": 5, "amount": 5}]}), "thresholds"),
        (json!({"period": "DAY", "thresholds": [{"percent": 50}]}), "thresholds"),
    ] {
        let refused = app.put(&org_admin, &path, json!({"role": "ORG_ADMIN", "limits": [limit]})).await.refused(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], field, "{:#}", refused.body);
    }
    let members = app.get(&org_admin, &format!("{ORGS}/{org}/members")).await.expect(200).body;
    assert!(members["items"].as_array().unwrap().contains(&json!({"userId": id(&member), "role": "MEMBER"})), "{members}");
}

#[tokio::test]
async fn the_last_org_admin_can_neither_leave_nor_step_down() {
    let Acme { app, org, org_admin, member } = acme().await;
    let path = |caller: &Caller| format!("{ORGS}/{org}/members/{}", id(caller));
    app.delete(&org_admin, &path(&org_admin)).await.refused(409, "conflict");
    app.put(&org_admin, &path(&org_admin), json!({"role": "MEMBER"})).await.refused(409, "conflict");
    app.put(&org_admin, &path(&org_admin), json!({"role": "ORG_ADMIN"})).await.expect(200);
    app.put(&org_admin, &path(&member), json!({"role": "ORG_ADMIN"})).await.expect(200);
    app.delete(&org_admin, &path(&org_admin)).await.expect(204);
    app.delete(&admin(), &path(&member)).await.expect(204);
}

#[tokio::test]
async fn lists_are_paged_and_show_only_what_is_the_callers() {
    let Acme { app, org, org_admin, member } = acme().await;
    for name in ["b", "c"] {
        app.post(&org_admin, ORGS, json!({"name": name})).await.expect(201);
    }
    app.post(&manager(), ORGS, json!({"name": "foreign"})).await.expect(201);
    let count = |answer: &Value| answer["items"].as_array().unwrap().len();
    let first = app.get(&org_admin, &format!("{ORGS}?limit=2")).await.expect(200).body;
    assert_eq!(count(&first), 2);
    let rest = app.get(&org_admin, &format!("{ORGS}?limit=2&cursor={}", first["nextCursor"].as_str().unwrap())).await.expect(200).body;
    assert_eq!((count(&rest), rest.get("nextCursor")), (1, None));
    assert_eq!(app.get(&member, ORGS).await.expect(200).body["items"][0]["orgId"], org.as_str());
    assert_eq!(count(&app.get(&admin(), ORGS).await.expect(200).body), 4);
    let confined = confined_to(&[org.parse().unwrap()], &org_admin);
    assert_eq!(count(&app.get(&confined, ORGS).await.expect(200).body), 1);
    app.get(&user(&[Scope::TokensConsume]), ORGS).await.refused(403, "forbidden");
    app.get(&org_admin, &format!("{ORGS}?cursor=x")).await.refused(400, "validation_failed");
    app.get(&org_admin, &format!("{ORGS}?limit=-1")).await.refused(400, "validation_failed");
    let members = app.get(&member, &format!("{ORGS}/{org}/members?limit=1")).await.expect(200).body;
    assert_eq!(members["nextCursor"], members["items"][0]["userId"]);
}
