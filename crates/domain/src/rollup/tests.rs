use super::*;
use crate::{
    amount::Tokens,
    charge::Metadata,
    event::NewEvent,
    ids::{EventId, OrgId, Payer},
};

fn event(user: Option<UserId>, key: Option<KeyId>) -> UsageEvent {
    let occurred_at = "2026-11-21T12:34:56Z".parse().unwrap();
    let event = NewEvent {
        id: EventId(Uuid::from_u128(1)),
        kind: EventType::ChargeSettled,
        payer: Payer::Org(OrgId(Uuid::from_u128(2))),
        user_id: user,
        key_id: key,
        provider: Some(Provider::parse("openai").unwrap()),
        model: Some(Model::parse("org/gpt-4o").unwrap()),
        charge_id: None,
        tokens: Tokens::new(5).unwrap(),
        count: 1,
        cost: None,
        reason: None,
        occurred_at,
        metadata: Metadata::default(),
    };
    UsageEvent { event, seq: 1, epoch: 1, recorded_at: occurred_at }
}

#[test]
fn a_counted_event_is_in_one_cell_by_model_and_one_by_user_and_key_whether_it_names_them_or_not() {
    let (user, key) = (UserId(Uuid::from_u128(3)), KeyId(Uuid::from_u128(4)));
    for (user, key) in [(Some(user), Some(key)), (Some(user), None), (None, Some(key)), (None, None)] {
        let cells = cells(&event(user, key));
        let (tenant, platform): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| matches!(cell.scope, RollupScope::Tenant(_)));
        for grain in Grain::STORED {
            let parts: Vec<_> = tenant.iter().filter(|cell| cell.grain == grain).map(|cell| cell.dimension.part().unwrap()).collect();
            let text = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
            let (user, key) = (text(user.map(|user| user.0)), text(key.map(|key| key.0)));
            let expected =
                [Part::Model { provider: "openai", model: "org/gpt-4o" }, Part::User { user: &user, provider: "openai", key: &key }];
            assert_eq!(parts, expected);
        }
        assert_eq!(tenant.len(), 2 * Grain::STORED.len());
        let payer = Part::Payer { tenant: Uuid::from_u128(2), provider: "openai" };
        let payers: Vec<_> = platform.iter().filter(|cell| cell.dimension.part() == Some(payer)).collect();
        assert_eq!((payers.len(), payers[0].grain, platform.len()), (1, Grain::Day, 1 + Grain::STORED.len()));
    }
}

#[test]
fn a_scope_is_read_back_from_its_text() {
    let shards = Shard::all().map(RollupScope::Platform);
    for scope in shards.chain([RollupScope::Tenant(Uuid::from_u128(7))]) {
        assert_eq!(RollupScope::parse(&scope.as_text()), Some(scope));
    }
    assert!(["", "all/64", "all/-1", "all", "7"].iter().all(|text| RollupScope::parse(text).is_none()));
}

#[test]
fn what_the_dimensions_of_a_user_begin_with_is_no_part_of_another_users() {
    let (one, openai) = (UserId(Uuid::from_u128(3)), Provider::parse("openai").unwrap());
    let dimension = Dimension::user(Some(one), Some(&openai), None).0;
    assert!(dimension.starts_with(&Dimension::of_user(one, None)) && dimension.starts_with(&Dimension::of_user(one, Some(&openai))));
    let longer = Provider::parse("openai-eu").unwrap();
    assert!(!Dimension::user(Some(one), Some(&longer), None).0.starts_with(&Dimension::of_user(one, Some(&openai))));
    assert!(!Dimension::user(None, Some(&openai), None).0.starts_with(&Dimension::of_user(one, None)));
    assert_eq!(Dimension("user:broken".into()).part(), None);
}
