//! Who plays in the trace: orgs, their members with one key each, wide buckets, and pools that hold exactly what the trace needs.

use super::{
    server::{Call, Server},
    trace::{Row, Trace},
};
use anyhow::{Context, Result};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The tier whose buckets hold the largest amount there is: the trace is about balances and reports, not about refusals.
const TIER: &str = "SEED";
const WIDE: i64 = 1_000_000;

/// Providers in turn, with the model that their rows name.
pub const PROVIDERS: [(&str, &str); 3] = [("openai", "gpt-4o"), ("gemini", "gemini-2.0-flash"), ("qwen", "qwen-max")];

#[derive(Clone, Debug)]
pub struct Plan {
    pub run: String,
    pub orgs: usize,
    pub users_per_org: usize,
}

#[derive(Clone)]
pub struct Member {
    pub user: Uuid,
    /// Index into [`Cast::orgs`].
    org: usize,
    pub key: SecretString,
}

#[derive(Clone)]
pub struct Cast {
    pub run: String,
    /// Ids as the server gave them; the name of each is unique in its run.
    pub orgs: Vec<String>,
    members: Vec<Member>,
}

/// What one row is sent as.
pub struct Part<'a> {
    pub member: &'a Member,
    pub org: &'a str,
    pub provider: &'static str,
    pub model: &'static str,
}

impl Plan {
    /// The same user for the same row in every start of a run, spread over all.
    fn member_of(&self, row: &Row) -> usize {
        let members = u64::try_from(self.orgs * self.users_per_org).unwrap_or(1).max(1);
        let mixed = row.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed % members).unwrap_or(0)
    }

    fn user(&self, index: usize) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("weir-seed/{}/user/{index}", self.run).as_bytes())
    }

    /// Tokens that each (org, provider) will spend.
    fn needs(&self, trace: &Trace) -> BTreeMap<(usize, &'static str), i64> {
        let mut needs = BTreeMap::new();
        for row in &trace.rows {
            *needs.entry((self.member_of(row) / self.users_per_org, provider_of(row).0)).or_default() += row.tokens;
        }
        needs
    }
}

fn provider_of(row: &Row) -> (&'static str, &'static str) {
    let index = usize::try_from(row.number % 3).unwrap_or(0);
    PROVIDERS[index]
}

impl Cast {
    /// Makes what is not there yet. Everything may be repeated: users, members, tiers and grants are the same again.
    pub async fn prepare(server: &Server, admin: &SecretString, plan: Plan, trace: &Trace) -> Result<Self> {
        let office = Office { server, admin };
        office
            .put(
                &format!("/api/v1/admin/tiers/{TIER}"),
                json!({"priority": 50, "bucketCapacityMultiplier": WIDE, "bucketLeakRateMultiplier": WIDE}),
            )
            .await?;
        let orgs = office.orgs(&plan).await?;
        for org in &orgs {
            office.put(&format!("/api/v1/admin/orgs/{org}/tier"), json!({"tier": TIER})).await?;
        }
        let mut members = Vec::with_capacity(plan.orgs * plan.users_per_org);
        for index in 0..plan.orgs * plan.users_per_org {
            let (user, org) = (plan.user(index), index / plan.users_per_org);
            office.put(&format!("/api/v1/orgs/{}/members/{user}", orgs[org]), json!({"role": "MEMBER"})).await?;
            office.put(&format!("/api/v1/admin/users/{user}/tier"), json!({"tier": TIER})).await?;
            let key = office.fresh_key(user, &format!("seed-{}", plan.run)).await?;
            members.push(Member { user, org, key });
        }
        for ((org, provider), tokens) in plan.needs(trace) {
            office.grant(&plan.run, &orgs[org], provider, tokens).await?;
        }
        Ok(Self { run: plan.run, orgs, members })
    }

    pub fn part(&self, row: &Row) -> Option<Part<'_>> {
        let plan = Plan { run: String::new(), orgs: self.orgs.len(), users_per_org: self.members.len() / self.orgs.len().max(1) };
        let member = self.members.get(plan.member_of(row))?;
        let (provider, model) = provider_of(row);
        Some(Part { member, org: self.orgs.get(member.org)?, provider, model })
    }
}

/// The administrator at work.
struct Office<'a> {
    server: &'a Server,
    admin: &'a SecretString,
}

impl Office<'_> {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>, idempotency_key: Option<&str>) -> Result<Value> {
        Ok(self.server.call(self.admin, &Call { method, path, body, idempotency_key }).await?.body)
    }

    async fn put(&self, path: &str, body: Value) -> Result<()> {
        self.call(Method::PUT, path, Some(&body), None).await.map(drop)
    }

    /// The run's orgs, found by their names or made.
    async fn orgs(&self, plan: &Plan) -> Result<Vec<String>> {
        let known = self.known_orgs().await?;
        let mut orgs = Vec::with_capacity(plan.orgs);
        for index in 0..plan.orgs {
            let name = format!("seed-{}-{index}", plan.run);
            let id = match known.get(&name) {
                Some(id) => id.clone(),
                None => {
                    let made = self.call(Method::POST, "/api/v1/orgs", Some(&json!({"name": name})), Some(&name)).await?;
                    made["orgId"].as_str().context("a new org's answer has no orgId")?.to_owned()
                }
            };
            orgs.push(id);
        }
        Ok(orgs)
    }

    /// Ids by name. Should a name be there twice, because an answer was lost, the smallest id is taken each time.
    async fn known_orgs(&self) -> Result<BTreeMap<String, String>> {
        let mut orgs: BTreeMap<String, String> = BTreeMap::new();
        let mut query = String::new();
        loop {
            let page = self.call(Method::GET, &format!("/api/v1/orgs{query}"), None, None).await?;
            for org in page["items"].as_array().into_iter().flatten() {
                if let (Some(name), Some(id)) = (org["name"].as_str(), org["orgId"].as_str()) {
                    let known = orgs.entry(name.to_owned()).or_insert_with(|| id.to_owned());
                    if id < known.as_str() {
                        id.clone_into(known);
                    }
                }
            }
            match page["nextCursor"].as_str() {
                Some(cursor) => query = format!("?cursor={cursor}"),
                None => return Ok(orgs),
            }
        }
    }

    /// A new key; those of earlier starts are revoked, so that a user never has more than one of a run.
    async fn fresh_key(&self, user: Uuid, name: &str) -> Result<SecretString> {
        let path = format!("/api/v1/auth/api-keys?userId={user}");
        let earlier = self.call(Method::GET, &path, None, None).await?;
        let made = self.call(Method::POST, "/api/v1/auth/api-keys", Some(&json!({"userId": user, "name": name})), None).await?;
        let key = made["apiKey"].as_str().context("a new key's answer has no apiKey")?;
        let of_run = earlier.as_array().into_iter().flatten().filter(|key| key["name"].as_str() == Some(name));
        for id in of_run.filter_map(|key| key["id"].as_str()) {
            self.call(Method::DELETE, &format!("{path}&apiKeyId={id}"), None, None).await?;
        }
        Ok(SecretString::from(key))
    }

    async fn grant(&self, run: &str, org: &str, provider: &str, tokens: i64) -> Result<()> {
        let body = json!({"orgId": org, "provider": provider, "tokens": tokens, "reason": format!("seed {run}")});
        let key = format!("seed-{run}-grant-{org}-{provider}");
        let granted = self.call(Method::POST, "/api/v1/admin/pools/grant", Some(&body), Some(&key)).await;
        let hint =
            || format!("granting to {org}; a run keeps its trace and its numbers of orgs and users, others need another --run than {run}");
        granted.map(drop).with_context(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pools_need_is_the_whole_trace_and_every_member_plays() {
        let rows = (1..=5_000).map(|number| Row { number, offset_ms: 0, tokens: i64::try_from(number).unwrap() }).collect();
        let trace = Trace { rows };
        let plan = Plan { run: "a".into(), orgs: 4, users_per_org: 3 };
        assert_eq!(plan.needs(&trace).values().sum::<i64>(), trace.tokens());
        assert_eq!(plan.needs(&trace).len(), 4 * PROVIDERS.len());
        let mut players: Vec<usize> = trace.rows.iter().map(|row| plan.member_of(row)).collect();
        players.sort_unstable();
        players.dedup();
        assert_eq!(players.len(), 12);
    }

    #[test]
    fn users_follow_from_the_run_and_their_index() {
        let plan = |run: &str| Plan { run: run.into(), orgs: 1, users_per_org: 1 };
        assert_eq!(plan("a").user(3), plan("a").user(3));
        assert_ne!(plan("a").user(3), plan("b").user(3));
    }
}
