//! What every adapter of `ports::accounts` must do.

use crate::customers::start;
use chrono::TimeDelta;
use domain::{
    access::{Role, Scope},
    ids::{KeyId, OrgId, Provider, UserId},
};
use futures::future::join_all;
use ports::accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts};
use uuid::Uuid;

fn user() -> UserId {
    UserId(Uuid::new_v4())
}

fn org() -> Org {
    Org { id: OrgId(Uuid::new_v4()), name: "Weir & Söhne 🌊".into(), created_at: start() }
}

fn hash() -> KeyHash {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    hash
}

fn key_of(user_id: Option<UserId>) -> ApiKey {
    ApiKey {
        id: KeyId(Uuid::new_v4()),
        user_id,
        name: Some("laptop \u{202e} «ключ»".into()),
        scopes: Scope::ALL.into(),
        providers: [Provider::parse("openai").unwrap(), Provider::parse(&"p".repeat(50)).unwrap()].into(),
        org_ids: [OrgId(Uuid::new_v4()), OrgId(Uuid::from_u128(u128::MAX))].into(),
        created_at: start(),
        expires_at: Some(start() + TimeDelta::milliseconds(1)),
    }
}

pub async fn the_pepper_is_made_once(one: &dyn Accounts, other: &dyn Accounts) {
    let (left, right) = futures::join!(one.pepper(), other.pepper());
    let pepper = left.unwrap();
    assert_eq!(pepper, right.unwrap());
    assert_ne!(pepper, [0; 32]);
}

pub async fn a_key_is_found_by_its_hash_with_every_field(accounts: &dyn Accounts) {
    let owner = user();
    let (full, full_hash) = (key_of(Some(owner)), hash());
    let bare = ApiKey {
        name: None,
        scopes: [].into(),
        providers: [].into(),
        org_ids: [].into(),
        expires_at: None,
        created_at: start() + TimeDelta::seconds(1),
        ..key_of(Some(owner))
    };
    accounts.create_key(&full, full_hash).await.unwrap();
    accounts.create_key(&bare, hash()).await.unwrap();
    assert_eq!(accounts.find_key(&full_hash).await.unwrap(), Some(full.clone()));
    assert_eq!(accounts.find_key(&hash()).await.unwrap(), None);
    assert_eq!(accounts.keys(owner).await.unwrap(), [bare, full], "newest first");
    assert_eq!(accounts.keys(user()).await.unwrap(), []);
}

pub async fn the_same_hash_again_replaces_nothing(accounts: &dyn Accounts) {
    let (first, same_hash) = (key_of(Some(user())), hash());
    accounts.create_key(&first, same_hash).await.unwrap();
    accounts.create_key(&first, same_hash).await.unwrap();
    accounts.create_key(&key_of(Some(user())), same_hash).await.unwrap();
    assert_eq!(accounts.find_key(&same_hash).await.unwrap(), Some(first));
}

pub async fn only_its_owner_revokes_a_key_and_only_once(accounts: &dyn Accounts) {
    let owner = user();
    let (key, key_hash) = (key_of(Some(owner)), hash());
    accounts.create_key(&key, key_hash).await.unwrap();
    let before = accounts.revision().await.unwrap();
    assert!(!accounts.revoke_key(user(), key.id).await.unwrap());
    assert_eq!(accounts.revision().await.unwrap(), before);
    assert!(accounts.revoke_key(owner, key.id).await.unwrap());
    assert!(accounts.revision().await.unwrap() > before);
    assert_eq!(accounts.find_key(&key_hash).await.unwrap(), None);
    assert!(!accounts.revoke_key(owner, key.id).await.unwrap());
}

pub async fn there_is_one_bootstrap_key(one: &dyn Accounts, other: &dyn Accounts) {
    let keys: Vec<(ApiKey, KeyHash)> = (0..8).map(|_| (key_of(None), hash())).collect();
    let puts = keys.iter().enumerate().map(|(index, (key, hash))| {
        let accounts = if index % 2 == 0 { one } else { other };
        accounts.put_bootstrap_key(key, *hash, false)
    });
    let stored: Vec<bool> = join_all(puts).await.into_iter().map(|stored| stored.unwrap()).collect();
    assert_eq!(stored.iter().filter(|stored| **stored).count(), 1, "{stored:?}");
    let (first, first_hash) = &keys[stored.iter().position(|stored| *stored).unwrap()];
    assert!(one.put_bootstrap_key(first, *first_hash, false).await.unwrap(), "the stored one is the stored one");
    assert_eq!(other.find_key(first_hash).await.unwrap().as_ref(), Some(first));
    let before = one.revision().await.unwrap();
    let (second, second_hash) = (key_of(None), hash());
    assert!(other.put_bootstrap_key(&second, second_hash, true).await.unwrap());
    assert_eq!(one.find_key(first_hash).await.unwrap(), None, "replaced");
    assert_eq!(one.find_key(&second_hash).await.unwrap(), Some(second));
    assert!(one.revision().await.unwrap() > before);
}

pub async fn an_org_begins_with_its_first_admin(accounts: &dyn Accounts) {
    let (with_admin, without, admin) = (org(), org(), user());
    accounts.create_org(&with_admin, Some(admin)).await.unwrap();
    accounts.create_org(&without, None).await.unwrap();
    assert_eq!(accounts.find_org(with_admin.id).await.unwrap(), Some(with_admin.clone()));
    assert_eq!(accounts.find_org(OrgId(Uuid::new_v4())).await.unwrap(), None);
    let members = accounts.members(with_admin.id, None, 10).await.unwrap();
    assert_eq!(members, [Member { user_id: admin, role: Role::OrgAdmin }]);
    assert_eq!(accounts.members(without.id, None, 10).await.unwrap(), []);
    assert_eq!(accounts.orgs(Some(admin), None, 10).await.unwrap(), [with_admin]);
}

pub async fn the_same_org_again_changes_nothing(accounts: &dyn Accounts) {
    let (org, admin, other) = (org(), user(), user());
    accounts.create_org(&org, Some(admin)).await.unwrap();
    accounts.create_org(&Org { name: "Other".into(), ..org.clone() }, Some(other)).await.unwrap();
    assert_eq!(accounts.find_org(org.id).await.unwrap(), Some(org.clone()));
    let members = accounts.members(org.id, None, 10).await.unwrap();
    assert_eq!(members, [Member { user_id: admin, role: Role::OrgAdmin }]);
}

pub async fn orgs_and_members_come_in_pages_ordered_by_id(accounts: &dyn Accounts) {
    let member = user();
    let mut orgs: Vec<Org> = (0..7).map(|_| org()).collect();
    for org in &orgs {
        accounts.create_org(org, None).await.unwrap();
        assert!(accounts.put_member(org.id, Member { user_id: member, role: Role::Member }).await.unwrap());
    }
    orgs.sort_by_key(|org| org.id);
    let mut paged: Vec<Org> = Vec::new();
    loop {
        let page = accounts.orgs(Some(member), paged.last().map(|org| org.id), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, orgs);
    let every = accounts.orgs(None, Some(orgs[0].id), 1_000).await.unwrap();
    assert!(orgs[1..].iter().all(|org| every.contains(org)) && !every.contains(&orgs[0]));
    let mut users: Vec<UserId> = (0..5).map(|_| user()).collect();
    users.push(member);
    for user_id in &users {
        accounts.put_member(orgs[0].id, Member { user_id: *user_id, role: Role::Member }).await.unwrap();
    }
    users.sort();
    let page: Vec<UserId> =
        accounts.members(orgs[0].id, Some(users[1]), 3).await.unwrap().into_iter().map(|member| member.user_id).collect();
    assert_eq!(page, users[2..5]);
}

pub async fn a_membership_is_put_changed_and_removed(accounts: &dyn Accounts) {
    let (org, user_id) = (org(), user());
    assert!(!accounts.put_member(org.id, Member { user_id, role: Role::Member }).await.unwrap(), "there is no such org");
    assert!(!accounts.remove_member(org.id, user_id).await.unwrap());
    accounts.create_org(&org, None).await.unwrap();
    let role = async || accounts.spend_facts(user_id, Some(org.id)).await.unwrap().role;
    assert_eq!(role().await, None);
    let mut revision = accounts.revision().await.unwrap();
    for new in [Role::Member, Role::OrgAdmin] {
        assert!(accounts.put_member(org.id, Member { user_id, role: new }).await.unwrap());
        assert_eq!(role().await, Some(new));
        let now = accounts.revision().await.unwrap();
        assert!(now > revision);
        revision = now;
    }
    assert!(accounts.remove_member(org.id, user_id).await.unwrap());
    assert!(accounts.revision().await.unwrap() > revision);
    assert_eq!(role().await, None);
    assert!(!accounts.remove_member(org.id, user_id).await.unwrap());
}

pub async fn tiers_belong_to_users_and_orgs_and_raise_the_revision(accounts: &dyn Accounts) {
    let (org, user_id) = (org(), user());
    assert_eq!(accounts.spend_facts(user_id, None).await.unwrap(), SpendFacts::default());
    assert_eq!(accounts.spend_facts(user_id, Some(org.id)).await.unwrap(), SpendFacts::default(), "no such org");
    assert!(!accounts.set_org_tier(org.id, "PRO").await.unwrap());
    accounts.create_org(&org, Some(user_id)).await.unwrap();
    let before = accounts.revision().await.unwrap();
    accounts.set_user_tier(user_id, "FREE").await.unwrap();
    let between = accounts.revision().await.unwrap();
    assert!(accounts.set_org_tier(org.id, "PRO").await.unwrap());
    assert!(before < between && between < accounts.revision().await.unwrap());
    let facts = SpendFacts { user_tier: Some("FREE".into()), org_tier: Some("PRO".into()), org_exists: true, role: Some(Role::OrgAdmin) };
    assert_eq!(accounts.spend_facts(user_id, Some(org.id)).await.unwrap(), facts);
    let stranger = user();
    accounts.set_user_tier(stranger, "ADMIN").await.unwrap();
    let facts = SpendFacts { user_tier: Some("ADMIN".into()), role: None, ..facts };
    assert_eq!(accounts.spend_facts(stranger, Some(org.id)).await.unwrap(), facts, "a tier makes no member");
    accounts.ping().await.unwrap();
}

pub async fn the_revision_rises_with_every_change_also_of_two_processes_at_once(one: &dyn Accounts, other: &dyn Accounts) {
    let before = one.revision().await.unwrap();
    let changes = (0..20).map(|index| async move {
        let accounts = if index % 2 == 0 { one } else { other };
        accounts.set_user_tier(UserId(Uuid::from_u128(index % 3)), &format!("TIER{index}")).await
    });
    for changed in join_all(changes).await {
        changed.unwrap();
    }
    assert!(one.revision().await.unwrap() >= before + 20);
}
