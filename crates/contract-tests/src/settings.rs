//! What every adapter of `ports::settings` must do.

use crate::customers::start;
use domain::{
    money::Money,
    settings::{Settings, SettingsChange, SettingsConflict, SettingsEffect, Tier},
};
use futures::future::join_all;
use ports::settings::SettingsStore;
use std::time::{Duration, Instant};

fn put(name: &str) -> SettingsChange {
    SettingsChange::PutTier { name: name.into(), tier: Tier::NEUTRAL }
}

pub async fn a_new_installation_has_the_shipped_settings_as_version_1(store: &dyn SettingsStore) {
    assert_eq!(store.load().await.unwrap(), Settings::default());
    assert_eq!(store.load().await.unwrap().version, 1);
    let history = store.history(10).await.unwrap();
    assert_eq!(history.iter().map(|entry| (entry.version, entry.change.clone())).collect::<Vec<_>>(), [(1, None)]);
}

pub async fn a_change_is_a_new_version_with_author_time_and_change(store: &dyn SettingsStore) {
    let (effect, settings) = store.change(put("GOLD"), "user:Zoë \"🌊\"", start()).await.unwrap();
    assert_eq!((effect, settings.version), (SettingsEffect::Created, 2));
    assert_eq!(store.load().await.unwrap(), settings);
    let (effect, settings) = store.change(put("GOLD"), "bootstrap", start()).await.unwrap();
    assert_eq!((effect, settings.version), (SettingsEffect::Replaced, 3));
    let (effect, settings) = store.change(SettingsChange::DeleteTier { name: "GOLD".into() }, "bootstrap", start()).await.unwrap();
    assert_eq!((effect, settings.version), (SettingsEffect::Deleted, 4));
    assert!(!store.load().await.unwrap().tiers.contains_key("GOLD"));
    let history = store.history(3).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.version).collect::<Vec<_>>(), [4, 3, 2]);
    let oldest = &history[2];
    assert_eq!((oldest.author.as_str(), oldest.at, oldest.change.clone()), ("user:Zoë \"🌊\"", start(), Some(put("GOLD"))));
}

pub async fn a_change_of_nothing_makes_no_version(store: &dyn SettingsStore) {
    let before = store.load().await.unwrap();
    let (effect, settings) =
        store.change(SettingsChange::DeleteLimit { name: "no such limit".into() }, "bootstrap", start()).await.unwrap();
    assert_eq!((effect, settings), (SettingsEffect::Absent, before.clone()));
    assert_eq!(store.load().await.unwrap(), before);
    assert_eq!(store.history(10).await.unwrap().len(), 1);
}

pub async fn changes_of_two_processes_at_once_are_all_kept(one: &dyn SettingsStore, other: &dyn SettingsStore) {
    let names: Vec<String> = (0..20).map(|index| format!("TIER{index}")).collect();
    let changes = names.iter().enumerate().map(|(index, name)| {
        let store = if index % 2 == 0 { one } else { other };
        store.change(put(name), "bootstrap", start())
    });
    let mut versions: Vec<i64> = join_all(changes).await.into_iter().map(|changed| changed.unwrap().1.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=21).collect::<Vec<_>>());
    let settings = other.load().await.unwrap();
    assert!(names.iter().all(|name| settings.tiers.contains_key(name)));
    assert_eq!(settings.version, 21);
}

pub async fn of_two_currencies_set_at_once_one_stands(one: &dyn SettingsStore, other: &dyn SettingsStore) {
    let money = |digits| SettingsChange::PutMoney { money: Money { currency: "EUR".parse().unwrap(), minor_unit_digits: digits } };
    let changes = (0..8).map(|digits| {
        let store = if digits % 2 == 0 { one } else { other };
        store.change(money(digits), "bootstrap", start())
    });
    let mut effects: Vec<_> = join_all(changes).await.into_iter().map(|changed| changed.unwrap().0).collect();
    effects.retain(|effect| *effect != SettingsEffect::Refused(SettingsConflict::CurrencyIsSet));
    assert_eq!(effects, [SettingsEffect::Created]);
    let settings = other.load().await.unwrap();
    assert_eq!(settings.version, 2);
    let again = SettingsChange::PutMoney { money: settings.money.unwrap() };
    assert_eq!(one.change(again, "bootstrap", start()).await.unwrap(), (SettingsEffect::Kept, settings));
}

pub async fn waiting_ends_with_a_newer_version_or_with_its_time(one: &dyn SettingsStore, other: &dyn SettingsStore) {
    let version = one.load().await.unwrap().version;
    let began = Instant::now();
    one.wait(version - 1, Duration::from_secs(20)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "there is a newer one already");
    one.wait(version, Duration::from_millis(50)).await;
    let began = Instant::now();
    let change = async {
        tokio::task::yield_now().await;
        other.change(put("NEWS"), "bootstrap", start()).await.unwrap();
    };
    let woken = async {
        while one.load().await.unwrap().version == version {
            one.wait(version, Duration::from_secs(20)).await;
        }
    };
    futures::join!(change, woken);
    assert!(began.elapsed() < Duration::from_secs(5));
}
