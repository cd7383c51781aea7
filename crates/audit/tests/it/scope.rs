//! A scope counts what it covers, and says nothing about anybody else.

use crate::world::{Data, World, different, payers};
use audit::Scope;
use domain::{
    event::{EventType, UsageEvent},
    ids::{OrgId, Payer, UserId},
    rollup::{self, CellKey, Dimension, RollupScope},
};
use uuid::Uuid;

fn org() -> OrgId {
    let Payer::Org(org) = payers()[3] else { panic!("the fourth payer is an org") };
    org
}

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

/// Events of one kind that the org pays for and this user caused, in order.
fn spent_of_org(data: &Data, user: UserId) -> Vec<UsageEvent> {
    let rows = data.shards.iter().flat_map(|shard| &shard.rows);
    let events = rows.map(|row| event_codec::decode(&row.payload).unwrap());
    let of_user = |event: &UsageEvent| event.event.payer == Payer::Org(org()) && event.event.user_id == Some(user);
    events.filter(|event| of_user(event) && event.event.kind == EventType::ChargeSettled).collect()
}

#[tokio::test]
async fn a_scope_counts_only_what_it_covers() {
    let world = World::settled(7, 900);
    let whole = world.audit(Scope::default()).await;
    let of_org = world.audit(Scope { org: Some(org()), ..Scope::default() }).await;
    let of_user = world.audit(Scope { user: Some(user(1)), ..Scope::default() }).await;
    let of_both = world.audit(Scope { org: Some(org()), user: Some(user(1)), ..Scope::default() }).await;
    let middle = world.data().middle_event().event.occurred_at;
    let early = world.audit(Scope { to: Some(middle), ..Scope::default() }).await;
    let late = world.audit(Scope { from: Some(middle), ..Scope::default() }).await;
    assert!([&whole, &of_org, &of_user, &of_both, &early, &late].iter().all(|report| report.clean));
    assert!(0 < of_org.checked_events && of_org.checked_events < whole.checked_events);
    assert!(0 < of_both.checked_events && of_both.checked_events < of_org.checked_events.min(of_user.checked_events));
    assert_eq!(early.checked_events + late.checked_events, whole.checked_events);
    assert!(of_org.shards.is_empty() && !whole.shards.is_empty(), "only an audit of everything says what was compared");
}

type Corruption = (&'static str, fn(&mut Data, &UsageEvent));

#[tokio::test]
async fn an_audit_of_a_user_finds_what_is_wrong_of_the_user_in_an_org_and_nothing_of_others() {
    let scopes = |number| [None, Some(org())].map(|org| Scope { org, user: Some(user(number)), ..Scope::default() });
    let corruptions: [Corruption; 3] = [
        ("I5", |data, event| data.shard(event.shard()).raw.retain(|row| row.seq != event.seq)),
        ("I4", |data, event| data.shard(event.shard()).log.retain(|record| record.seq != Some(event.seq))),
        ("I3", |data, event| {
            let charges = &mut data.shard(event.shard()).state.charges;
            charges.get_mut(&event.event.charge_id.unwrap()).unwrap().late = true;
        }),
    ];
    for (id, corrupt) in corruptions {
        let world = World::settled(7, 900);
        let event = spent_of_org(&world.data(), user(1)).pop().unwrap();
        corrupt(&mut world.data(), &event);
        for scope in scopes(1) {
            let report = world.audit(scope).await;
            let invariant = report.invariants.iter().find(|invariant| invariant.id == id).unwrap();
            assert_eq!(invariant.differences.first().and_then(|first| first.event_id), Some(event.event.id), "{id}: {scope:?}");
        }
        for scope in scopes(2) {
            let report = world.audit(scope).await;
            assert!(report.clean, "{id}: {:?}", different(&report));
        }
    }
}

#[tokio::test]
async fn an_audit_of_a_user_compares_the_users_own_totals_in_an_org_and_not_those_of_all_its_users() {
    let damage = |dimension: &'static str| {
        let world = World::settled(7, 900);
        let event = spent_of_org(&world.data(), user(1)).pop().unwrap();
        let of_org = |key: &CellKey| key.scope == RollupScope::Tenant(org().0) && key.dimension.0.starts_with(dimension);
        let key = rollup::cells(&event).into_iter().find(of_org).unwrap();
        world.data().cells.get_mut(&key).unwrap().tokens += 1;
        world
    };
    let of_user = |number| Scope { user: Some(user(number)), ..Scope::default() };
    let world = damage(Dimension::USER);
    let report = world.audit(of_user(1)).await;
    assert_eq!(different(&report).into_keys().collect::<std::collections::BTreeSet<_>>(), ["I5", "I8"].map(String::from).into());
    assert!(world.audit(of_user(2)).await.clean);
    assert!(!world.audit(Scope { org: Some(org()), ..Scope::default() }).await.clean);
    let world = damage(Dimension::MODEL);
    assert!(world.audit(of_user(1)).await.clean);
    assert!(!world.audit(Scope { org: Some(org()), ..Scope::default() }).await.clean);
}
