//! Users for the consume legs: each with a key, a pool that never runs dry and buckets that never refuse.

use crate::{installation::Installation, load::Prepared, office::Office};
use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{net::SocketAddr, rc::Rc};
use uuid::Uuid;

const USERS: usize = 400;
/// Bodies that take turns; each request has an idempotency key of its own.
const REQUESTS: usize = 8_000;
const TIER: &str = "BENCH";
const MULTIPLIER: i64 = 1_000_000;

pub struct Users {
    pub ids: Vec<Uuid>,
    /// Of the users, in their order.
    pub keys: Vec<String>,
}

impl Users {
    pub async fn make(installation: &Installation, address: SocketAddr) -> Result<Self> {
        let office = Office::of(installation, address);
        let tier = json!({"priority": 50, "bucketCapacityMultiplier": MULTIPLIER, "bucketLeakRateMultiplier": MULTIPLIER});
        office.put(&format!("tiers/{TIER}"), &tier).await?;
        let ids: Vec<Uuid> = (0..USERS).map(|_| Uuid::new_v4()).collect();
        let mut keys = Vec::with_capacity(USERS);
        for user in &ids {
            keys.push(office.key(*user, &[]).await?);
            office.put(&format!("users/{user}/tier"), &json!({"tier": TIER})).await?;
            office.grant("userId", *user).await?;
        }
        Ok(Self { ids, keys })
    }

    /// Consumes of real amounts, by one user after the other.
    pub fn consumes(&self, amounts: &[i64]) -> Result<Rc<Vec<Prepared>>> {
        let mut notes = Notes::new();
        let request = |number: usize| {
            let tokens = amounts[number % amounts.len()];
            let body = json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens, "metadata": {"note": notes.next()}});
            Ok(Prepared::new("/api/v1/tokens/consume", &self.keys[number % self.keys.len()], body.to_string())?.keyed())
        };
        Ok(Rc::new((0..REQUESTS).map(request).collect::<Result<_>>()?))
    }
}

/// The same bodies for the echo route.
pub fn to_echo(requests: &[Prepared]) -> Rc<Vec<Prepared>> {
    Rc::new(requests.iter().map(|request| request.to("/bench/echo")).collect())
}

/// Random texts, the same in every run: what is compressible would flatter.
pub struct Notes(StdRng);

impl Notes {
    pub fn new() -> Self {
        Self(StdRng::seed_from_u64(20_261_121))
    }

    pub fn next(&mut self) -> String {
        let note: [u8; 48] = self.0.random();
        note.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
