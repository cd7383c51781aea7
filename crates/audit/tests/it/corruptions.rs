//! Each planted corruption is named by its invariant, down to the event.

use crate::world::{Data, World, different, pool_key};
use audit::{Difference, Report, Scope};
use domain::{
    amount::Tokens,
    budget::Budget,
    charge::{Charge, ChargeStatus},
    event::{EventType, UsageEvent},
    ids::EventId,
    ledger::{LedgerState, Outcome},
    money::Cost,
    rollup::{self, Dimension, RollupScope},
    time::Grain,
};
use ports::event_log::LogRecord;

/// Corrupts a settled world at the event in its middle and audits it.
async fn after(corrupt: impl FnOnce(&mut Data, &UsageEvent)) -> (Report, UsageEvent) {
    let world = World::settled(42, 900);
    assert!(world.audit(Scope::default()).await.clean);
    let event = world.data().middle_event();
    corrupt(&mut world.data(), &event);
    (world.audit(Scope::default()).await, event)
}

fn first<'a>(report: &'a Report, id: &str) -> &'a Difference {
    assert!(!report.clean);
    let invariant = report.invariants.iter().find(|invariant| invariant.id == id).unwrap();
    invariant.differences.first().unwrap_or_else(|| panic!("{id} found nothing; {:?} did", different(report)))
}

fn names(difference: &Difference, event: &UsageEvent) -> bool {
    difference.event_id == Some(event.event.id) && difference.seq == Some(event.seq) && difference.shard == event.shard().index()
}

fn only(report: &Report, ids: &[&str]) -> bool {
    let mut found: Vec<String> = different(report).into_keys().collect();
    found.sort();
    found == ids
}

#[tokio::test]
async fn a_deleted_outbox_row_is_named_although_its_id_is_only_in_the_log() {
    let (report, event) = after(|data, event| data.shard(event.shard()).rows.retain(|row| row.seq != event.seq)).await;
    for id in ["I2", "I3", "I4", "I5", "I7"] {
        assert!(names(first(&report, id), &event), "{id}: {:#?}", first(&report, id));
    }
    assert_eq!(first(&report, "I3").found, "no row");
}

#[tokio::test]
async fn a_deleted_last_row_is_named_by_the_counter_of_its_shard() {
    let (report, event) = after(|data, event| {
        let shard = data.shard(event.shard());
        shard.rows.truncate(shard.rows.len() - 1);
    })
    .await;
    let difference = first(&report, "I3");
    assert_eq!((difference.shard, difference.found.as_str()), (event.shard().index(), "no row"));
    assert!(difference.event_id.is_some());
}

#[tokio::test]
async fn a_changed_balance_is_named_with_the_newest_event_of_its_pool() {
    for change in [-1, 1] {
        let (report, event) = after(|data, event| {
            let key = pool_key(event.event.payer, event.event.provider.as_ref().unwrap().as_str());
            let balance = &mut data.shard(event.shard()).state.pools.get_mut(&key).unwrap().purchased;
            balance.granted = Tokens::new(balance.granted.get() + change).unwrap();
        })
        .await;
        assert!(only(&report, &["I1", "I3"]), "{:?}", different(&report));
        let difference = first(&report, "I1");
        assert_eq!((difference.shard, difference.tenant), (event.shard().index(), Some(event.event.payer.tenant())));
        assert!(difference.event_id.is_some() && difference.seq >= Some(event.seq));
    }
}

#[tokio::test]
async fn a_balance_below_zero_and_a_forgotten_hold_are_differences() {
    let (report, _) = after(|data, event| {
        let key = pool_key(event.event.payer, event.event.provider.as_ref().unwrap().as_str());
        let balance = &mut data.shard(event.shard()).state.pools.get_mut(&key).unwrap().purchased;
        balance.held = Tokens::new(balance.held.get() + balance.granted.get() + 1).unwrap();
    })
    .await;
    let subjects: Vec<&str> = report.invariants[0].differences.iter().map(|difference| difference.subject.as_str()).collect();
    assert!(subjects.iter().any(|subject| subject.starts_with("remaining")), "{subjects:?}");
    assert!(subjects.iter().any(|subject| subject.starts_with("held")), "{subjects:?}");
}

/// A budget that counted something, and where it is.
fn some_budget(data: &mut Data) -> &mut Budget {
    let budgets = data.shards.iter_mut().flat_map(|shard| shard.state.budgets.values_mut());
    budgets.max_by_key(|budget| budget.current.used).unwrap()
}

#[tokio::test]
async fn a_budget_that_counts_other_than_its_charges_is_a_difference() {
    let mut payer = None;
    let (report, _) = after(|data, _| {
        let budget = some_budget(data);
        assert!(!budget.current.used.is_zero());
        payer = Some(budget.key.payer);
        budget.current.used = Tokens::new(budget.current.used.get() - 1).unwrap();
    })
    .await;
    assert!(only(&report, &["I1", "I3"]), "{:?}", different(&report));
    let difference = first(&report, "I1");
    assert!(difference.subject.starts_with("used of a "), "{difference:?}");
    assert_eq!(difference.tenant, payer.map(|payer| payer.tenant()));
}

#[tokio::test]
async fn a_raised_limit_a_forgotten_threshold_and_a_lost_budget_are_differences() {
    let corruptions: [fn(&mut Budget); 3] = [
        |budget| budget.terms.limit = Some(Tokens::MAX),
        |budget| budget.current.reached.clear(),
        |budget| budget.current.ends_at = Some("2030-01-01T00:00:00Z".parse().unwrap()),
    ];
    for corrupt in corruptions {
        let (report, _) = after(|data, _| corrupt(some_budget(data))).await;
        assert_eq!(different(&report).get("I3"), Some(&1), "{:?}", different(&report));
    }
    let (report, _) = after(|data, _| {
        let key = some_budget(data).key.clone();
        data.shard(key.payer.shard()).state.budgets.remove(&key);
    })
    .await;
    assert!(only(&report, &["I3"]), "{:?}", different(&report));
    assert_eq!(first(&report, "I3").found, "none");
}

/// A charge of which something was refunded that had been purchased, from a pool of which something purchased stays spent.
fn some_refunded(data: &mut Data) -> Charge {
    let is_wanted = |state: &LedgerState, charge: &Charge| {
        let pool = state.pools.get(&pool_key(charge.spec.payer, charge.spec.provider.as_str()));
        !charge.returned().purchased.is_zero() && pool.is_some_and(|pool| !pool.purchased.settled.is_zero())
    };
    let charges = data.shards.iter().flat_map(|shard| shard.state.charges.values().filter(|charge| is_wanted(&shard.state, charge)));
    charges.max_by_key(|charge| charge.spec.id).unwrap().clone()
}

#[tokio::test]
async fn a_refund_that_did_not_come_back_and_one_that_came_back_twice_are_differences() {
    for change in [1, -1] {
        let (report, _) = after(|data, _| {
            let charge = some_refunded(data);
            let key = pool_key(charge.spec.payer, charge.spec.provider.as_str());
            let balance = &mut data.shard(key.payer.shard()).state.pools.get_mut(&key).unwrap().purchased;
            balance.settled = Tokens::new(balance.settled.get() + change).unwrap();
        })
        .await;
        assert!(only(&report, &["I1", "I3"]), "{:?}", different(&report));
        let found = &report.invariants[0].differences;
        assert!(found.iter().any(|difference| difference.subject.starts_with("settled of all balances")), "{found:#?}");
    }
}

#[tokio::test]
async fn a_charge_that_says_another_refunded_amount_than_its_events_is_named() {
    let mut id = None;
    let (report, _) = after(|data, _| {
        let charge = some_refunded(data);
        id = Some(charge.spec.id);
        let stored = data.shard(charge.spec.payer.shard()).state.charges.get_mut(&charge.spec.id).unwrap();
        stored.refunded = Tokens::new(charge.refunded.get() - 1).unwrap();
    })
    .await;
    assert_eq!((first(&report, "I2").charge_id, first(&report, "I2").subject.as_str()), (id, "refunded tokens of a charge"));
    assert_eq!(first(&report, "I3").charge_id, id);
}

#[tokio::test]
async fn a_refund_above_what_was_settled_is_named_with_its_event() {
    let world = World::settled(42, 900);
    let refund = {
        let mut data = world.data();
        let event = data.middle_event();
        let shard = data.shard(event.shard());
        shard.last_seq += 1;
        let mut refund = event.clone();
        (refund.seq, refund.event.id, refund.event.kind) = (shard.last_seq, EventId::generate(), EventType::ChargeRefunded);
        refund.event.tokens = Tokens::new(event.event.tokens.get() + 1).unwrap();
        shard.rows.push(crate::world::Row { seq: refund.seq, payload: event_codec::encode(&refund).unwrap() });
        refund
    };
    world.data().catch_up(refund.shard());
    let report = world.audit(Scope::default()).await;
    assert!(names(first(&report, "I2"), &refund), "{:#?}", first(&report, "I2"));
    assert_eq!(first(&report, "I2").subject, "refunds of a charge");
}

#[tokio::test]
async fn a_saga_that_is_elsewhere_than_its_events_say_and_one_that_is_lost_are_differences() {
    for lose in [false, true] {
        let mut subject = String::new();
        let (report, _) = after(|data, _| {
            let sagas = data.shards.iter().flat_map(|shard| shard.state.sagas.values());
            let saga = sagas.filter(|saga| saga.status().is_end()).max_by_key(|saga| saga.id).unwrap().clone();
            subject = format!("saga {}", saga.id);
            let sagas = &mut data.shard(saga.shard()).state.sagas;
            if lose {
                sagas.remove(&saga.id);
            } else {
                sagas.get_mut(&saga.id).unwrap().steps.pop();
            }
        })
        .await;
        assert!(only(&report, &["I3"]), "{:?}", different(&report));
        assert_eq!(first(&report, "I3").subject, subject);
    }
}

/// A hold that still runs, and where it is.
fn some_hold(data: &mut Data) -> &mut Charge {
    let charges = data.shards.iter_mut().flat_map(|shard| shard.state.charges.values_mut());
    charges.filter(|charge| charge.status == ChargeStatus::Held).max_by_key(|charge| charge.held).unwrap()
}

#[tokio::test]
async fn a_hold_of_another_amount_and_one_that_vanished_are_differences() {
    let (report, _) = after(|data, _| {
        let hold = some_hold(data);
        hold.held = Tokens::new(hold.held.get() + 1).unwrap();
        hold.from_purchased = Tokens::new(hold.from_purchased.get() + 1).unwrap();
    })
    .await;
    assert!(only(&report, &["I1", "I10", "I3"]), "{:?}", different(&report));
    assert!(first(&report, "I1").subject.starts_with("held of the "), "{:?}", first(&report, "I1"));
    let mut id = None;
    let (report, _) = after(|data, _| {
        let hold = some_hold(data).clone();
        id = Some(hold.spec.id);
        data.shard(hold.spec.payer.shard()).state.charges.remove(&hold.spec.id);
    })
    .await;
    assert!(only(&report, &["I1", "I10", "I3"]), "{:?}", different(&report));
    assert_eq!((first(&report, "I3").charge_id, first(&report, "I3").found.as_str()), (id, "none"));
    assert_eq!((first(&report, "I10").charge_id, first(&report, "I10").found.as_str()), (id, "none"));
}

#[tokio::test]
async fn a_past_period_that_was_changed_or_lost_is_a_difference() {
    for lose in [false, true] {
        let mut payer = None;
        let (report, _) = after(|data, _| {
            let periods = data.shards.iter().flat_map(|shard| &shard.state.past_periods);
            let (key, _) = periods.max_by_key(|(_, period)| period.balance.settled).unwrap();
            let key = key.clone();
            payer = Some(key.0.payer);
            let periods = &mut data.shard(key.0.payer.shard()).state.past_periods;
            let mut period = periods.remove(&key).unwrap();
            assert!(!period.balance.settled.is_zero(), "nothing was spent in it");
            if !lose {
                period.balance.settled = Tokens::new(period.balance.settled.get() - 1).unwrap();
                periods.insert(key, period);
            }
        })
        .await;
        assert!(only(&report, &["I1", "I3"]), "{:?}", different(&report));
        assert_eq!(first(&report, "I3").tenant, payer.map(|payer| payer.tenant()));
        assert!(first(&report, "I3").subject.starts_with("past period of "), "{:?}", first(&report, "I3"));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_longer_true_of_its_charge_is_named() {
    let told = |report: &Report| (first(report, "I10").charge_id, first(report, "I10").found.clone());
    let mut id = None;
    let (report, event) = after(|data, event| {
        id = event.event.charge_id;
        let (_, outcome) = data.answers.iter_mut().rev().find(|(charge, _)| Some(*charge) == id).unwrap();
        let Outcome::Charged { charge, .. } = outcome else { panic!("{outcome:?}") };
        charge.settled = Tokens::new(charge.settled.get() + 7).unwrap();
    })
    .await;
    assert!(only(&report, &["I10"]), "{:?}", different(&report));
    assert!(told(&report).1.contains(&format!("settled {}", event.event.tokens.get() + 7)), "{:?}", told(&report));
    assert_eq!((told(&report).0, first(&report, "I10").shard), (id, event.shard().index()));
}

#[tokio::test]
async fn a_charge_with_another_cost_than_its_event_is_a_difference() {
    let (report, _) = after(|data, _| {
        let priced = |charge: &&mut Charge| charge.status == ChargeStatus::Settled && charge.cost.is_some();
        let charge = data.shards.iter_mut().flat_map(|shard| shard.state.charges.values_mut()).find(priced).unwrap();
        let cost = charge.cost.unwrap();
        charge.cost = Some(Cost { minor_units: Tokens::new(cost.minor_units.get() + 1).unwrap(), ..cost });
    })
    .await;
    assert!(first(&report, "I3").expected.starts_with("cost="), "{:?}", first(&report, "I3"));
}

#[tokio::test]
async fn a_changed_charge_is_named_with_its_event() {
    let (report, event) = after(|data, event| {
        let charge = data.shard(event.shard()).state.charges.get_mut(&event.event.charge_id.unwrap()).unwrap();
        charge.settled = Tokens::new(charge.settled.get() + 5).unwrap();
    })
    .await;
    assert!(only(&report, &["I1", "I10", "I2", "I3"]), "{:?}", different(&report));
    assert!(names(first(&report, "I2"), &event) && names(first(&report, "I3"), &event));
    let settled = event.event.tokens.get();
    assert_eq!(first(&report, "I3").expected, format!("settled={settled}"));
    assert_eq!(first(&report, "I3").found, format!("settled={}", settled + 5));
}

#[tokio::test]
async fn a_charge_with_two_ends_is_named_with_the_second() {
    let world = World::settled(42, 900);
    let event = world.data().middle_event();
    let second = {
        let mut data = world.data();
        let data = data.shard(event.shard());
        let mut second = event.clone();
        data.last_seq += 1;
        (second.seq, second.event.id, second.event.kind) = (data.last_seq, EventId::generate(), EventType::ChargeReleased);
        let payload = event_codec::encode(&second).unwrap();
        data.rows.push(crate::world::Row { seq: second.seq, payload });
        second
    };
    world.data().catch_up(event.shard());
    let report = world.audit(Scope::default()).await;
    let difference = first(&report, "I2");
    assert!(names(difference, &second), "{difference:#?}");
    assert_eq!(difference.found, "CHARGE_RELEASED after SETTLED");
}

#[tokio::test]
async fn a_charge_whose_row_says_another_end_is_named() {
    let (report, event) = after(|data, event| {
        let charge = data.shard(event.shard()).state.charges.get_mut(&event.event.charge_id.unwrap()).unwrap();
        charge.status = ChargeStatus::Released;
    })
    .await;
    let difference = first(&report, "I2");
    assert!(names(difference, &event));
    assert_eq!((difference.expected.as_str(), difference.found.as_str()), ("SETTLED", "RELEASED"));
}

#[tokio::test]
async fn a_skipped_number_is_named() {
    let (report, event) = after(|data, event| {
        let data = data.shard(event.shard());
        data.last_seq += 1;
    })
    .await;
    let difference = first(&report, "I3");
    assert_eq!((difference.shard, difference.found.as_str()), (event.shard().index(), "no row"));
    assert!(difference.seq > Some(event.seq) && difference.event_id.is_none());
    assert!(only(&report, &["I3"]), "{:?}", different(&report));
}

#[tokio::test]
async fn bytes_that_are_no_event_and_a_payload_under_a_foreign_number_are_named() {
    let (report, event) = after(|data, event| {
        data.shard(event.shard()).rows.iter_mut().find(|row| row.seq == event.seq).unwrap().payload = b"junk".to_vec();
    })
    .await;
    assert!(names(first(&report, "I3"), &event) && names(first(&report, "I4"), &event));
    let (report, event) = after(|data, event| {
        let rows = &mut data.shard(event.shard()).rows;
        let index = rows.iter().position(|row| row.seq == event.seq).unwrap();
        rows[index].payload = rows[index - 1].payload.clone();
    })
    .await;
    assert_eq!(first(&report, "I3").seq, Some(event.seq));
}

#[tokio::test]
async fn a_doubled_log_record_with_another_payload_is_named() {
    let (report, event) = after(|data, event| {
        let mut other = event.clone();
        other.event.tokens = Tokens::new(event.event.tokens.get() + 1).unwrap();
        append(data, event, event_codec::frame(&event_codec::encode(&other).unwrap()), Some(event.seq));
    })
    .await;
    assert!(only(&report, &["I4"]), "{:?}", different(&report));
    assert!(names(first(&report, "I4"), &event), "{:#?}", first(&report, "I4"));
}

#[tokio::test]
async fn junk_under_a_used_number_is_named_and_junk_without_a_number_is_nobodys() {
    let (report, event) = after(|data, event| append(data, event, b"junk".to_vec(), Some(event.seq))).await;
    assert!(names(first(&report, "I4"), &event));
    let (report, _) = after(|data, event| append(data, event, b"junk".to_vec(), None)).await;
    assert!(report.clean, "{:?}", different(&report));
    let (report, _) = after(|data, event| append(data, event, b"\0\0\0\0\x01junk".to_vec(), Some(1_000_000))).await;
    assert!(report.clean, "{:?}", different(&report));
}

fn append(data: &mut Data, like: &UsageEvent, value: Vec<u8>, seq: Option<i64>) {
    let log = &mut data.shard(like.shard()).log;
    let offset = i64::try_from(log.len()).unwrap();
    log.push(LogRecord { shard: like.shard(), offset, value, seq, trace_parent: None, timestamp_ms: None });
}

#[tokio::test]
async fn an_event_that_is_missing_in_the_log_is_named() {
    let (report, event) = after(|data, event| data.shard(event.shard()).log.retain(|record| record.seq != Some(event.seq))).await;
    assert!(only(&report, &["I4"]));
    assert!(names(first(&report, "I4"), &event));
}

#[tokio::test]
async fn a_dead_letter_stands_for_no_number_and_only_its_redriven_event_fills_the_hole() {
    let damage = |data: &mut Data, event: &UsageEvent| {
        let shard = data.shard(event.shard());
        let offset = shard.log.iter().find(|record| record.seq == Some(event.seq)).unwrap().offset;
        // It may have been sent more than once.
        shard.log.retain(|record| record.seq != Some(event.seq) || record.offset == offset);
        let record = shard.log.iter_mut().find(|record| record.offset == offset).unwrap();
        let sound = std::mem::replace(&mut record.value, b"junk".to_vec());
        shard.set_aside.push(record.offset);
        sound
    };
    let (report, event) = after(|data, event| drop(damage(data, event))).await;
    assert!(only(&report, &["I4"]), "{:#?}", report.invariants);
    assert!(names(first(&report, "I4"), &event));
    assert_eq!(first(&report, "I4").found, "none");
    let (report, _) = after(|data, event| {
        let sound = damage(data, event);
        append(data, event, sound, Some(event.seq));
    })
    .await;
    assert!(report.clean, "{:?}", different(&report));
    let (report, _) = after(|data, event| {
        let offset = data.shard(event.shard()).log.iter().find(|record| record.seq == Some(event.seq)).unwrap().offset;
        data.shard(event.shard()).set_aside.push(offset);
    })
    .await;
    assert!(report.clean, "a mended record stands where it stood: {:?}", different(&report));
}

#[tokio::test]
async fn an_event_of_the_log_that_the_ledger_never_had_is_named() {
    let (report, event) = after(|data, event| {
        let mut forged = event.clone();
        forged.seq = data.shard(event.shard()).last_seq + 1;
        append(data, event, event_codec::frame(&event_codec::encode(&forged).unwrap()), None);
    })
    .await;
    assert!(only(&report, &["I4"]));
    assert_eq!(first(&report, "I4").event_id, Some(event.event.id));
}

#[tokio::test]
async fn a_missing_or_changed_or_surplus_raw_row_is_named() {
    let (report, event) = after(|data, event| data.shard(event.shard()).raw.retain(|row| row.seq != event.seq)).await;
    assert!(only(&report, &["I5"]) && names(first(&report, "I5"), &event));
    let (report, event) = after(|data, event| {
        let raw = &mut data.shard(event.shard()).raw;
        raw.iter_mut().find(|row| row.seq == event.seq).unwrap().event.tokens = Tokens::new(1_000_000).unwrap();
    })
    .await;
    assert!(only(&report, &["I5"]) && names(first(&report, "I5"), &event));
    let mut surplus_id = EventId::generate();
    let (report, event) = after(|data, event| {
        let mut surplus = event.clone();
        surplus.event.id = EventId::generate();
        surplus_id = surplus.event.id;
        data.shard(event.shard()).raw.push(surplus);
    })
    .await;
    let difference = first(&report, "I5");
    assert!(only(&report, &["I5"]));
    assert_eq!((difference.event_id, difference.seq), (Some(surplus_id), Some(event.seq)));
}

#[tokio::test]
async fn a_changed_or_lost_cell_is_named_with_its_newest_event() {
    let total = |event: &UsageEvent| {
        let of_tenant = RollupScope::Tenant(event.event.payer.tenant());
        let total =
            |key: &rollup::CellKey| key.scope == of_tenant && key.grain == Grain::Minute && key.dimension.0.starts_with(Dimension::MODEL);
        rollup::cells(event).into_iter().find(total).unwrap()
    };
    for lose in [false, true] {
        let mut newest = 0;
        let (report, event) = after(|data, event| {
            let key = total(event);
            newest = data.cells[&key].last_seq;
            if lose {
                data.cells.remove(&key);
            } else {
                data.cells.get_mut(&key).unwrap().tokens += 1;
            }
        })
        .await;
        assert!(only(&report, &["I5", "I6", "I8"]), "{:?}", different(&report));
        let sums = first(&report, "I6");
        assert!(sums.event_id.is_some() && sums.subject.starts_with("users of "), "{sums:#?}");
        let difference = first(&report, "I5");
        assert_eq!((difference.shard, difference.seq), (event.shard().index(), Some(newest)));
        assert!(difference.event_id.is_some() && difference.subject.contains("/minute/"), "{difference:#?}");
    }
}

#[tokio::test]
async fn a_surplus_cell_and_one_that_lags_behind_the_watermark_are_named() {
    let (report, _) = after(|data, event| {
        let (mut key, cell) = data.cells.iter().next().map(|(key, cell)| (key.clone(), *cell)).unwrap();
        key.dimension = Dimension("model:nobody/".into());
        key.scope = RollupScope::Tenant(event.event.payer.tenant());
        (key.grain, key.shard) = (Grain::Day, event.shard());
        data.cells.insert(key, cell);
    })
    .await;
    assert!(first(&report, "I5").subject.contains("model:nobody/"));
    assert!(first(&report, "I6").subject.contains("\"nobody\""));
    let (report, _) = after(|data, event| {
        let key = rollup::cells(event).remove(0);
        data.cells.insert(key, rollup::CellValue::default());
    })
    .await;
    assert!(only(&report, &["I5", "I6", "I8"]), "{:?}", different(&report));
}

#[tokio::test]
async fn a_watermark_beyond_the_ledger_and_a_wrong_digest_are_differences() {
    let (report, event) = after(|data, event| data.shard(event.shard()).applied.last_seq += 1).await;
    assert_eq!(first(&report, "I7").shard, event.shard().index());
    let (report, event) = after(|data, event| data.shard(event.shard()).applied.digest ^= 1).await;
    assert!(only(&report, &["I7"]));
    assert_eq!(first(&report, "I7").shard, event.shard().index());
}

#[tokio::test]
async fn a_report_survives_json_with_camel_case_names() {
    let (report, _) = after(|data, event| data.shard(event.shard()).rows.retain(|row| row.seq != event.seq)).await;
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["clean"], false);
    assert!(json["checkedEvents"].as_u64() > Some(100));
    assert!(json["invariants"][2]["differences"][0]["eventId"].is_string());
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}
