//! The first administrator key.

use crate::app::App;
use auth_service::{Bootstrap, BootstrapError, bootstrap_admin};
use secrecy::{ExposeSecret, SecretString};
use std::sync::atomic::Ordering;

async fn bootstrap(app: &App, key: Option<&str>) -> Result<Bootstrap, BootstrapError> {
    bootstrap_admin(&*app.accounts, key.map(SecretString::from), app.clock.now()).await
}

#[tokio::test]
async fn without_a_configured_key_one_is_made_at_the_first_start_only() {
    let app = App::new();
    let Ok(Bootstrap::Generated(key)) = bootstrap(&app, None).await else { panic!("no key was made") };
    let known = app.authenticate(key.expose_secret()).await.expect(200).body;
    assert_eq!((&known["userId"], &known["scopes"]), (&serde_json::Value::Null, &serde_json::json!(["admin"])));
    assert!(matches!(bootstrap(&app, None).await, Ok(Bootstrap::Existing)));
    app.authenticate(key.expose_secret()).await.expect(200);
}

#[tokio::test]
async fn a_configured_key_replaces_the_one_before() {
    let app = App::new();
    let Ok(Bootstrap::Generated(made)) = bootstrap(&app, None).await else { panic!("no key was made") };
    for chosen in ["weir_chosen-by-the-operator", "weir_0123456789abcdef0123456789abcdef0123456789abcdef"] {
        assert!(matches!(bootstrap(&app, Some(chosen)).await, Ok(Bootstrap::Configured)));
        // Every start and every process sets it again.
        assert!(matches!(bootstrap(&app, Some(chosen)).await, Ok(Bootstrap::Configured)));
        app.authenticate(chosen).await.expect(200);
    }
    app.authenticate("weir_chosen-by-the-operator").await.refused(401, "unauthenticated");
    app.authenticate(made.expose_secret()).await.refused(401, "unauthenticated");
    assert_eq!(app.accounts.rows().keys.len(), 1);
    assert!(matches!(bootstrap(&app, None).await, Ok(Bootstrap::Existing)));
}

#[tokio::test]
async fn an_unusable_configured_key_is_refused_and_not_repeated() {
    let app = App::new();
    let Ok(Bootstrap::Generated(made)) = bootstrap(&app, None).await else { panic!("no key was made") };
    let mut wrong = made.expose_secret().to_owned();
    let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    wrong.push(last);
    for bad in ["", "secret", "weir_short", "weir_with a space in it"] {
        let error = bootstrap(&app, Some(bad)).await.unwrap_err();
        assert!(matches!(error, BootstrapError::Form), "{bad}");
    }
    let error = bootstrap(&app, Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Checksum) && !format!("{error}{error:?}").contains(&wrong));
    app.authenticate(made.expose_secret()).await.expect(200);
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_the_secret_never_prints() {
    let app = App::new();
    app.accounts.away.store(true, Ordering::SeqCst);
    assert!(matches!(bootstrap(&app, None).await, Err(BootstrapError::Store(_))));
    app.accounts.away.store(false, Ordering::SeqCst);
    let made = bootstrap(&app, None).await.unwrap();
    assert!(!format!("{made:?}").contains("weir_"));
}
