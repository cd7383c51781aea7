//! Tiers and roles; everything else of the port is not used by this service.

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
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
};

#[derive(Default)]
pub struct FakeAccounts {
    pub roles: Mutex<HashMap<(OrgId, UserId), Role>>,
    pub user_tiers: Mutex<HashMap<UserId, String>>,
    pub org_tiers: Mutex<HashMap<OrgId, String>>,
    pub reads: AtomicUsize,
    pub revision: AtomicI64,
    pub away: AtomicBool,
}

impl FakeAccounts {
    pub fn join(&self, org: OrgId, user: UserId, role: Role) {
        self.roles.lock().unwrap().insert((org, user), role);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    pub fn leave(&self, org: OrgId, user: UserId) {
        self.roles.lock().unwrap().remove(&(org, user));
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    fn answer(&self) -> Result<()> {
        if self.away.load(Ordering::SeqCst) { Err(StoreError::unavailable("postgres", "away on request")) } else { Ok(()) }
    }
}

#[async_trait]
impl Accounts for FakeAccounts {
    async fn spend_facts(&self, user: UserId, org: Option<OrgId>) -> Result<SpendFacts> {
        self.answer()?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        let roles = self.roles.lock().unwrap();
        Ok(SpendFacts {
            user_tier: self.user_tiers.lock().unwrap().get(&user).cloned(),
            org_tier: org.and_then(|org| self.org_tiers.lock().unwrap().get(&org).cloned()),
            org_exists: org.is_some_and(|org| roles.keys().any(|(other, _)| *other == org)),
            role: org.and_then(|org| roles.get(&(org, user)).copied()),
        })
    }

    async fn revision(&self) -> Result<i64> {
        self.answer()?;
        Ok(self.revision.load(Ordering::SeqCst))
    }

    async fn pepper(&self) -> Result<[u8; 32]> {
        unimplemented!()
    }
    async fn create_key(&self, _: &ApiKey, _: KeyHash) -> Result<()> {
        unimplemented!()
    }
    async fn put_bootstrap_key(&self, _: &ApiKey, _: KeyHash, _: bool) -> Result<bool> {
        unimplemented!()
    }
    async fn find_key(&self, _: &KeyHash) -> Result<Option<ApiKey>> {
        unimplemented!()
    }
    async fn keys(&self, _: UserId) -> Result<Vec<ApiKey>> {
        unimplemented!()
    }
    async fn revoke_key(&self, _: UserId, _: KeyId) -> Result<bool> {
        unimplemented!()
    }
    async fn create_org(&self, _: &Org, _: Option<UserId>) -> Result<()> {
        unimplemented!()
    }
    async fn find_org(&self, _: OrgId) -> Result<Option<Org>> {
        unimplemented!()
    }
    async fn orgs(&self, _: Option<UserId>, _: Option<OrgId>, _: u32) -> Result<Vec<Org>> {
        unimplemented!()
    }
    async fn put_member(&self, _: OrgId, _: Member) -> Result<bool> {
        unimplemented!()
    }
    async fn remove_member(&self, _: OrgId, _: UserId) -> Result<bool> {
        unimplemented!()
    }
    async fn members(&self, _: OrgId, _: Option<UserId>, _: u32) -> Result<Vec<Member>> {
        unimplemented!()
    }
    async fn set_user_tier(&self, _: UserId, _: &str) -> Result<()> {
        unimplemented!()
    }
    async fn set_org_tier(&self, _: OrgId, _: &str) -> Result<bool> {
        unimplemented!()
    }
    async fn ping(&self) -> Result<()> {
        self.answer()
    }
}
