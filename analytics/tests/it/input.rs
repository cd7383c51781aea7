//! Bad input is named.

use crate::world::{World, admin, caller, user};
use axum::http::Method;

#[tokio::test]
async fn each_wrong_parameter_is_refused_by_name() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    let report = format!("orgs/{org}/report");
    for (path, field) in [
        ("usage", "provider"),
        ("report?provider=", "provider"),
        ("report?provider=%20%20", "provider"),
        ("anomalies?provider=a%20b", "provider"),
        ("report?provider=openai&orgId=1", "orgId"),
        ("report?provider=openai&userId=x", "userId"),
        ("report?provider=openai&keyId=x", "keyId"),
        ("report?provider=openai&model=%20", "model"),
        ("report?provider=openai&windowMinutes=many", "windowMinutes"),
        ("report?provider=openai&windowMinutes=5&from=2026-11-21", "windowMinutes"),
        ("report?provider=openai&baselineWindows=4", "baselineWindows"),
        ("report?provider=openai&from=yesterday", "from"),
        ("report?provider=openai&from=2026-11-21&to=2026-11-21", "from"),
        ("report?provider=openai&from=1900-01-01", "from"),
        ("usage?provider=openai&limit=1.5", "limit"),
        ("usage?provider=openai&windowMinutes=5", "windowMinutes"),
        ("anomalies?provider=openai&thresholdMultiplier=NaN", "thresholdMultiplier"),
        ("anomalies?provider=openai&baselineWindows=x", "baselineWindows"),
        (&format!("{report}?grain=week"), "grain"),
        (&format!("{report}?groupBy=org"), "groupBy"),
        (&format!("{report}?timeZone=Mars/Base"), "timeZone"),
        (&format!("{report}?grain=minute&from=2026-01-01"), "grain"),
        ("orgs/7/report", "orgId"),
    ] {
        let refused = world.get(&caller(boss), path).await.expect(400);
        assert_eq!(
            (refused["code"].as_str(), refused["errors"][0]["field"].as_str()),
            (Some("validation_failed"), Some(field)),
            "{path}: {refused:#}"
        );
    }
    let unknown = world.get(&caller(boss), "report?provider=openai&windowMinute=5").await.expect(400);
    assert!(unknown.to_string().contains("windowMinutes"), "names the nearest known one: {unknown:#}");
}

#[tokio::test]
async fn odd_but_lawful_parameters_are_limited_not_refused() {
    let world = World::new().await;
    let boss = caller(user());
    let report = world.get(&boss, "report?provider=openai&windowMinutes=0&limit=-3").await.expect(200);
    assert_eq!((report["sampleLimit"].as_i64(), report["totalEvents"].as_i64()), (Some(5_000), Some(0)));
    assert_eq!(report["averageTokensPerEvent"].as_f64(), Some(0.0));
    let anomalies =
        world.get(&boss, "anomalies?provider=openai&windowMinutes=99999&baselineWindows=99&thresholdMultiplier=0.1").await.expect(200);
    assert_eq!((anomalies["baselineWindows"].as_i64(), anomalies["thresholdMultiplier"].as_f64()), (Some(24), Some(1.0)));
}

#[tokio::test]
async fn an_audit_takes_a_strict_body() {
    let world = World::new().await;
    let audit = async |body: &str| world.send(Some(&admin()), Method::POST, "/api/v1/admin/audit", Some(body)).await;
    audit("{\"org\": 1}").await.expect(400);
    audit("{\"orgId\": \"x\"}").await.expect(400);
    audit("[").await.expect(400);
    let report = audit("{}").await.expect(200);
    assert_eq!((report["clean"].as_bool(), report["checkedEvents"].as_i64()), (Some(true), Some(0)), "{report:#}");
}
