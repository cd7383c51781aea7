//! Events as a busy Weir writes them: real amounts, many payers, random metadata, dense numbers per shard.

use anyhow::Result;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent, UsageEvent},
    ids::{ChargeId, EventId, Model, OrgId, Payer, Provider, SHARDS, Shard, UserId},
    trace_parent::TraceParent,
};
use ports::outbox::OutboxRow;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

const ORGS: usize = 200;
const USERS_PER_ORG: u128 = 5;
const PROVIDERS: [(&str, &str); 3] = [("openai", "gpt-4o"), ("gemini", "gemini-2.0-flash"), ("qwen", "qwen-max")];

pub struct Generator<'a> {
    amounts: &'a [i64],
    random: StdRng,
    orgs: Vec<Uuid>,
    /// Number of the newest event per shard.
    last_seq: [i64; 64],
    made: usize,
}

impl<'a> Generator<'a> {
    pub fn new(amounts: &'a [i64]) -> Self {
        let orgs = (0..ORGS).map(|_| Uuid::new_v4()).collect();
        Self { amounts, random: StdRng::seed_from_u64(64), orgs, last_seq: [0; 64], made: 0 }
    }

    /// Newest number of every shard, in order.
    pub fn heads(&self) -> impl Iterator<Item = (Shard, i64)> {
        Shard::all().zip(self.last_seq)
    }

    /// The next event, recorded now, as a row of the outbox.
    pub fn next_row(&mut self, now: DateTime<Utc>) -> Result<OutboxRow> {
        let event = self.next_event(now.duration_trunc(TimeDelta::milliseconds(1)).unwrap_or(now))?;
        Ok(OutboxRow {
            shard: event.shard(),
            seq: event.seq,
            epoch: event.epoch,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str().to_owned(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at,
            trace_parent: Some(TraceParent::generate().to_string()),
            seen: Vec::new(),
            payload: event_codec::encode(&event)?,
        })
    }

    fn next_event(&mut self, now: DateTime<Utc>) -> Result<UsageEvent> {
        let org = self.random.random_range(0..self.orgs.len());
        let payer = Payer::Org(OrgId(self.orgs[org]));
        let user = Uuid::from_u128(self.orgs[org].as_u128() ^ self.random.random_range(0..USERS_PER_ORG));
        let (provider, model) = PROVIDERS[self.random.random_range(0..PROVIDERS.len())];
        let note: [u8; 48] = self.random.random();
        let note: String = note.iter().map(|byte| format!("{byte:02x}")).collect();
        let tokens = self.amounts[self.made % self.amounts.len()];
        self.made += 1;
        let seq = &mut self.last_seq[usize::from(payer.shard().index() % SHARDS)];
        *seq += 1;
        let event = NewEvent {
            id: EventId::generate(),
            kind: EventType::ChargeSettled,
            payer,
            user_id: Some(UserId(user)),
            key_id: None,
            provider: Some(Provider::parse(provider)?),
            model: Some(Model::parse(model)?),
            charge_id: Some(ChargeId::new(payer.shard(), now)),
            tokens: Tokens::new(tokens)?,
            count: 1,
            cost: None,
            reason: None,
            occurred_at: now,
            metadata: Metadata::from([("note".to_owned(), note)]),
        };
        Ok(UsageEvent { event, seq: *seq, epoch: 1, recorded_at: now })
    }
}
