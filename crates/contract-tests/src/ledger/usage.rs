//! Usage that already happened: booked once, at its own time.

use crate::customers::*;
use chrono::TimeDelta;
use domain::{ledger::Outcome, time::Period};
use futures::future::join_all;
use ports::ledger::{Ledger, LedgerAnswer};

fn name() -> [u8; 16] {
    *uuid::Uuid::new_v4().as_bytes()
}

pub async fn late_usage_is_booked_in_the_period_in_which_it_happened(ledger: &dyn Ledger) {
    let customer = Customer::org();
    outcome(ledger, &customer.allowance(100, Period::Day)).await;
    charged(ledger, &customer.consume(40)).await;
    // Each day opens a period; the first one must be found among several.
    for days in 1..=3 {
        charged(ledger, &customer.later(TimeDelta::days(days)).consume(1)).await;
    }
    let today = customer.later(TimeDelta::days(3));
    let late = charged(ledger, &today.record(name(), 50, customer.now)).await;
    assert_eq!((late.created_at, late.from_allowance, late.debt), (customer.now, tokens(50), tokens(0)));
    let between = customer.now + TimeDelta::days(1);
    charged(ledger, &today.record(name(), 7, between)).await;
    let before_everything = customer.now - TimeDelta::days(30);
    assert_eq!(charged(ledger, &today.record(name(), 9, before_everything)).await.from_allowance, tokens(9));
    let snapshot = ledger.snapshot(customer.shard()).await.unwrap();
    let mut past: Vec<_> = snapshot.past_periods.iter().filter(|(key, _)| *key == customer.pool()).map(|(_, period)| *period).collect();
    past.sort_by_key(|period| period.starts_at);
    assert_eq!(past.iter().map(|period| period.balance.settled).collect::<Vec<_>>(), [tokens(90), tokens(8), tokens(1)]);
    let pool = ledger.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!((pool.remaining(), pool.debt), (tokens(90), tokens(0)), "what was before the first period counts in the current one");
    audit(ledger, &customer).await;
}

pub async fn usage_is_recognised_by_its_name_alone(ledger: &dyn Ledger) {
    let (customer, name) = (Customer::user(), name());
    let first = charged(ledger, &customer.record(name, 5, customer.now)).await;
    let later = customer.later(TimeDelta::days(399));
    // Twice in one batch, too.
    let again = ledger.apply(&[later.record(name, 5, customer.now), later.record(name, 6, customer.now)]).await.unwrap();
    let [LedgerAnswer::Decided(Outcome::AlreadyRecorded { charge }), LedgerAnswer::Decided(Outcome::RecordedDifferently { charge_id })] =
        &again[..]
    else {
        panic!("{again:?}")
    };
    assert_eq!((&**charge, *charge_id), (&first, first.spec.id));
    let new = [later.record(*uuid::Uuid::new_v4().as_bytes(), 1, customer.now), later.record(name, 5, customer.now)];
    assert!(matches!(ledger.apply(&new).await.unwrap()[1], LedgerAnswer::Decided(Outcome::AlreadyRecorded { .. })));
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().debt, tokens(6));
    audit(ledger, &customer).await;
}

pub async fn of_many_tellings_at_once_one_is_booked(one: &dyn Ledger, other: &dyn Ledger) {
    let (customer, name) = (Customer::user(), name());
    let tellings = (0..16).map(|index| {
        let (ledger, request) = (if index % 2 == 0 { one } else { other }, customer.record(name, 3, customer.now));
        async move { outcome(ledger, &request).await }
    });
    let outcomes = join_all(tellings).await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Charged { .. })).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::AlreadyRecorded { .. })).count(), 15);
    assert_eq!(one.find_pool(&customer.pool()).await.unwrap().unwrap().debt, tokens(3));
    audit(one, &customer).await;
}
