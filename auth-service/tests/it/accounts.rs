//! Accounts in memory, which can be taken away and count look-ups.

use async_trait::async_trait;
use domain::{
    access::Role,
    ids::{KeyId, OrgId, UserId},
};
use ports::{
    Result, StoreError,
    accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts},
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub keys: Vec<(ApiKey, KeyHash)>,
    pub orgs: BTreeMap<OrgId, Org>,
    pub members: BTreeMap<(OrgId, UserId), Role>,
    pub user_tiers: BTreeMap<UserId, String>,
    pub org_tiers: BTreeMap<OrgId, String>,
    pub revision: i64,
}

#[derive(Default)]
pub struct MemoryAccounts {
    rows: Mutex<Rows>,
    pub away: AtomicBool,
    pub lookups: AtomicUsize,
}

impl MemoryAccounts {
    /// Everything that is stored, for comparing before and after.
    pub fn rows(&self) -> Rows {
        self.rows.lock().unwrap().clone()
    }

    fn reach<T>(&self, act: impl FnOnce(&mut Rows) -> T) -> Result<T> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("postgres", "connection refused to 10.1.2.3"));
        }
        Ok(act(&mut self.rows.lock().unwrap()))
    }
}

fn page<T>(rows: impl Iterator<Item = T>, limit: u32) -> Vec<T> {
    rows.take(usize::try_from(limit).unwrap()).collect()
}

#[async_trait]
impl Accounts for MemoryAccounts {
    async fn pepper(&self) -> Result<[u8; 32]> {
        self.reach(|_| [9; 32])
    }

    async fn create_key(&self, key: &ApiKey, hash: KeyHash) -> Result<()> {
        self.reach(|rows| {
            if !rows.keys.iter().any(|(_, known)| *known == hash) {
                rows.keys.push((key.clone(), hash));
            }
        })
    }

    async fn put_bootstrap_key(&self, key: &ApiKey, hash: KeyHash, replace: bool) -> Result<bool> {
        self.reach(|rows| {
            let stored = rows.keys.iter().find(|(key, _)| key.user_id.is_none()).map(|(_, hash)| *hash);
            if stored.is_none() || replace {
                rows.keys.retain(|(key, _)| key.user_id.is_some());
                rows.keys.push((key.clone(), hash));
                rows.revision += 1;
                return true;
            }
            stored == Some(hash)
        })
    }

    async fn find_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.reach(|rows| rows.keys.iter().find(|(_, stored)| stored == hash).map(|(key, _)| key.clone()))
    }

    async fn keys(&self, user: UserId) -> Result<Vec<ApiKey>> {
        self.reach(|rows| rows.keys.iter().rev().filter(|(key, _)| key.user_id == Some(user)).map(|(key, _)| key.clone()).collect())
    }

    async fn revoke_key(&self, user: UserId, id: KeyId) -> Result<bool> {
        self.reach(|rows| {
            let before = rows.keys.len();
            rows.keys.retain(|(key, _)| key.user_id != Some(user) || key.id != id);
            rows.revision += i64::from(rows.keys.len() < before);
            rows.keys.len() < before
        })
    }

    async fn create_org(&self, org: &Org, first_admin: Option<UserId>) -> Result<()> {
        self.reach(|rows| {
            if rows.orgs.insert(org.id, org.clone()).is_none() {
                rows.members.extend(first_admin.map(|user| ((org.id, user), Role::OrgAdmin)));
            }
        })
    }

    async fn find_org(&self, org: OrgId) -> Result<Option<Org>> {
        self.reach(|rows| rows.orgs.get(&org).cloned())
    }

    async fn orgs(&self, of_user: Option<UserId>, after: Option<OrgId>, limit: u32) -> Result<Vec<Org>> {
        self.reach(|rows| {
            let mine = |org: &&Org| of_user.is_none_or(|user| rows.members.contains_key(&(org.id, user)));
            page(rows.orgs.values().filter(mine).filter(|org| after.is_none_or(|after| org.id > after)).cloned(), limit)
        })
    }

    async fn put_member(&self, org: OrgId, member: Member) -> Result<bool> {
        self.reach(|rows| {
            let known = rows.orgs.contains_key(&org);
            if known {
                rows.members.insert((org, member.user_id), member.role);
                rows.revision += 1;
            }
            known
        })
    }

    async fn remove_member(&self, org: OrgId, user: UserId) -> Result<bool> {
        self.reach(|rows| {
            let removed = rows.members.remove(&(org, user)).is_some();
            rows.revision += i64::from(removed);
            removed
        })
    }

    async fn members(&self, org: OrgId, after: Option<UserId>, limit: u32) -> Result<Vec<Member>> {
        self.reach(|rows| {
            let of_org = rows.members.iter().filter(|((of, user), _)| *of == org && after.is_none_or(|after| *user > after));
            page(of_org.map(|((_, user), role)| Member { user_id: *user, role: *role }), limit)
        })
    }

    async fn set_user_tier(&self, user: UserId, tier: &str) -> Result<()> {
        self.reach(|rows| drop(rows.user_tiers.insert(user, tier.to_owned())))
    }

    async fn set_org_tier(&self, org: OrgId, tier: &str) -> Result<bool> {
        self.reach(|rows| {
            let known = rows.orgs.contains_key(&org);
            if known {
                rows.org_tiers.insert(org, tier.to_owned());
            }
            known
        })
    }

    async fn spend_facts(&self, user: UserId, org: Option<OrgId>) -> Result<SpendFacts> {
        self.reach(|rows| SpendFacts {
            user_tier: rows.user_tiers.get(&user).cloned(),
            org_tier: org.and_then(|org| rows.org_tiers.get(&org).cloned()),
            org_exists: org.is_some_and(|org| rows.orgs.contains_key(&org)),
            role: org.and_then(|org| rows.members.get(&(org, user)).copied()),
        })
    }

    async fn revision(&self) -> Result<i64> {
        self.reach(|rows| rows.revision)
    }

    async fn ping(&self) -> Result<()> {
        self.reach(|_| ())
    }
}
