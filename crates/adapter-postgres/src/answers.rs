//! `ports::answers` in Postgres: each call is one statement that commits by itself, and repeating it changes nothing.

use crate::{
    Postgres,
    error::{bounded, corrupt},
};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use ports::{
    Result,
    answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin},
};
use sqlx::FromRow;
use uuid::Uuid;

/// Rows that one statement of [`Answers::forget`] drops.
const FORGET_AT_ONCE: i64 = 500;
/// Looks at a key that is freed and taken again between two statements.
const LOOKS: u32 = 5;

#[derive(FromRow)]
struct AnswerRow {
    fingerprint: Vec<u8>,
    seed: Uuid,
    created_at: DateTime<Utc>,
    body: Option<Vec<u8>>,
}

#[async_trait]
impl Answers for Postgres {
    async fn begin(&self, attempt: &Attempt) -> Result<Begun> {
        for _ in 0..LOOKS {
            let begin = sqlx::query_as(include_str!("sql/answers/begin.sql"))
                .bind(attempt.name)
                .bind(attempt.fingerprint.as_slice())
                .bind(attempt.holder)
                .bind(attempt.now + TimeDelta::seconds(ATTEMPT_LEASE_SECS))
                .bind(attempt.now);
            let begun: Option<(Uuid, DateTime<Utc>)> = bounded(begin.fetch_optional(&self.pool)).await?;
            if let Some((seed, at)) = begun {
                return Ok(Begun::Run(Origin { seed, at }));
            }
            let find = sqlx::query_as(include_str!("sql/answers/find.sql")).bind(attempt.name);
            let found: Option<AnswerRow> = bounded(find.fetch_optional(&self.pool)).await?;
            if let Some(row) = found {
                return Ok(row.begun(attempt));
            }
        }
        Err(corrupt("an idempotency key that is neither there nor free"))
    }

    async fn complete(&self, attempt: &Attempt, answer: &[u8]) -> Result<bool> {
        let complete = sqlx::query(include_str!("sql/answers/complete.sql")).bind(attempt.name).bind(attempt.holder).bind(answer);
        Ok(bounded(complete.execute(&self.pool)).await?.rows_affected() == 1)
    }

    async fn give_up(&self, attempt: &Attempt, how: GiveUp) -> Result<()> {
        let statement = match how {
            GiveUp::Forget => sqlx::query(include_str!("sql/answers/free.sql")).bind(attempt.name).bind(attempt.holder),
            GiveUp::Repeat => {
                sqlx::query(include_str!("sql/answers/end_lease.sql")).bind(attempt.name).bind(attempt.holder).bind(attempt.now)
            }
        };
        bounded(statement.execute(&self.pool)).await.map(drop)
    }

    async fn forget(&self, before: DateTime<Utc>) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let statement = sqlx::query(include_str!("sql/answers/forget.sql")).bind(before).bind(FORGET_AT_ONCE);
            let rows = bounded(statement.execute(&self.pool)).await?.rows_affected();
            forgotten += rows;
            if rows == 0 {
                return Ok(forgotten);
            }
        }
    }
}

impl AnswerRow {
    fn begun(self, attempt: &Attempt) -> Begun {
        if self.fingerprint != attempt.fingerprint {
            return Begun::Mismatch;
        }
        match self.body {
            Some(answer) => Begun::Done(Origin { seed: self.seed, at: self.created_at }, answer),
            None => Begun::Running,
        }
    }
}
