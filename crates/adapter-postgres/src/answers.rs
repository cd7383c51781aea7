//! `ports::answers` in Postgres: each call is one statement that commits by itself, and repeating it changes nothing. The rows of a day
//! are a partition, dropped as a whole.

use crate::{
    Postgres,
    error::{bounded, corrupt, not_done},
    partitions,
};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use ports::{
    Result,
    answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin},
};
use sqlx::FromRow;
use uuid::Uuid;

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
            let begun: sqlx::Result<Option<(Uuid, DateTime<Utc>)>> = bounded(async { Ok(begin.fetch_optional(&self.pool).await) }).await?;
            match begun {
                Ok(Some((seed, at))) => return Ok(Begun::Run(Origin { seed, at })),
                Ok(None) => {}
                Err(error) if partitions::is_missing(&error) => {
                    partitions::make_ahead(&self.pool).await?;
                    continue;
                }
                Err(error) => return Err(not_done(error)),
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

    async fn forget(&self, before: DateTime<Utc>) -> Result<()> {
        partitions::drop_days(&self.pool, include_str!("sql/answers/forget.sql"), before.date_naive()).await
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
