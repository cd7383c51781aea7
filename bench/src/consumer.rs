//! The consumer: a full log in Kafka, a real `analytics` process, until the state of every shard in Cassandra is at its last event;
//! then how far it lags behind a steady stream of half of the rate that is asked for; then a replay of all of it.

use crate::{
    Plan,
    events::Generator,
    figures::{Goal, Report, Sample},
    installation::{Installation, on_a_fresh_one},
    load, log,
    process::Process,
    replay,
};
use adapter_cassandra::Cassandra;
use adapter_kafka::KafkaEventLog;
use anyhow::{Context, Result, bail};
use chrono::Utc;
use domain::ids::{SHARDS, Shard};
use ports::{
    event_log::EventLog,
    outbox::OutboxRow,
    usage_store::{Generation, UsageStore},
};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

const LEG: &str = "consumer: Kafka to Cassandra";
const LAG_LEG: &str = "lag at 7,500 events/s";
const LEAST_RATE: f64 = 15_000.0;
const ROWS_PER_TURN: usize = 20_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// One batch of the steady stream.
const TICK: Duration = Duration::from_millis(10);
const STUCK_AFTER: Duration = Duration::from_secs(60);

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for round in 0..plan.rounds {
        // A consumer starts where its state says; a fresh round needs a fresh installation.
        let (sample, lag, replay) = on_a_fresh_one(plan, async |installation| measure(plan, installation).await).await?;
        let p99 = lag.p99().unwrap_or_default() / 1_000.0;
        let (rate, replayed) = (sample.per_second, replay.per_second);
        log::note(&format!(
            "consumer: round {} of {}: {rate:.0} events/s, lag p99 {p99:.0} ms, replay {replayed:.0} events/s",
            round + 1,
            plan.rounds
        ));
        report.add(LEG, sample);
        report.add(LAG_LEG, lag);
        report.add(replay::LEG, replay);
    }
    report.figure(LEG, "events/s", "weir", |sample| Some(sample.per_second), Goal::AtLeast(LEAST_RATE));
    report.figure(LAG_LEG, "p99, µs", "weir", Sample::p99, Goal::AtMost(1_000_000.0));
    report.figure(replay::LEG, "events/s", "weir", |sample| Some(sample.per_second), Goal::AtLeast(replay::LEAST_RATE));
    Ok(())
}

struct Stage<'a> {
    log: KafkaEventLog,
    generator: Generator<'a>,
    store: Cassandra,
    generation: Generation,
}

async fn measure(plan: &Plan, installation: &Installation) -> Result<(Sample, Sample, Sample)> {
    let store = installation.cassandra().await?;
    let generation = store.live_generation().await?;
    let log = KafkaEventLog::connect(installation.kafka())?;
    let mut stage = Stage { log, generator: Generator::new(&plan.amounts), store, generation };
    log::note(&format!("consumer: filling the log with {} records", plan.consumer_events));
    stage.preload(plan.consumer_events).await.context("filling the log")?;
    let process = Process::start(installation, "analytics", &[])?;
    let sample = stage.drain(&process).await?;
    let lag = stage.lag(LEAST_RATE / 2.0, plan.measured).await?;
    process.stop().await;
    let replay = replay::measure(installation, &stage.store, stage.generator.heads().map(|(_, head)| head).sum()).await?;
    Ok((sample, lag, replay))
}

impl Stage<'_> {
    async fn preload(&mut self, mut left: usize) -> Result<()> {
        while left > 0 {
            let count = left.min(ROWS_PER_TURN);
            self.append(count).await?;
            left -= count;
        }
        Ok(())
    }

    /// Appends so many new events; answers the newest number of each shard that got one.
    async fn append(&mut self, count: usize) -> Result<HashMap<Shard, i64>> {
        let mut runs: HashMap<Shard, Vec<OutboxRow>> = HashMap::new();
        for _ in 0..count {
            let row = self.generator.next_row(Utc::now())?;
            runs.entry(row.shard).or_default().push(row);
        }
        let newest = runs.iter().filter_map(|(shard, rows)| Some((*shard, rows.last()?.seq))).collect();
        let mut acknowledgements = Vec::with_capacity(runs.len());
        for (shard, rows) in runs {
            acknowledgements.push(self.log.append(shard, rows).await?);
        }
        futures::future::try_join_all(acknowledgements).await?;
        Ok(newest)
    }

    async fn applied(&self) -> Result<Vec<(Shard, i64)>> {
        let shards: Vec<Shard> = Shard::all().collect();
        let states = self.store.shard_states(self.generation, &shards).await?;
        Ok(shards.into_iter().zip(states.iter().map(|state| state.last_seq)).collect())
    }

    /// Counts from the first applied events that are seen to the last.
    async fn drain(&self, process: &Process) -> Result<Sample> {
        let total: i64 = self.generator.heads().map(|(_, head)| head).sum();
        let (mut first, mut last, mut moved) = (None, 0, Instant::now());
        loop {
            let applied: i64 = self.applied().await?.iter().map(|(_, seq)| seq).sum();
            if applied > last {
                (last, moved) = (applied, Instant::now());
            }
            if applied > 0 && first.is_none() {
                first = Some((applied, Instant::now(), process.cpu_micros()?));
            }
            if applied >= total {
                break;
            }
            if moved.elapsed() > STUCK_AFTER {
                bail!("nothing was applied for {} s; {applied} of {total} were", STUCK_AFTER.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (before, since, cpu) = first.context("nothing was applied")?;
        if before >= total {
            bail!("{total} records were applied before the first look; choose more with --consumer-events");
        }
        let counted = f64::from(u32::try_from(total - before)?);
        let cpu_micros = f64::from(u32::try_from(process.cpu_micros()? - cpu)?);
        Ok(Sample {
            per_second: counted / since.elapsed().as_secs_f64(),
            cpu_micros_each: Some(cpu_micros / counted),
            ..Sample::new("weir")
        })
    }

    /// From the log's acknowledgement until the state of the shard covers the event, which is when reports show it.
    async fn lag(&mut self, per_second: f64, time: Duration) -> Result<Sample> {
        let mut waiting: Vec<VecDeque<(i64, i64, Instant)>> = vec![VecDeque::new(); usize::from(SHARDS)];
        let mut known: HashMap<Shard, i64> = self.generator.heads().collect();
        let mut lags = load::histogram()?;
        let (start, mut sent, mut looked) = (Instant::now(), 0_u32, Instant::now());
        while start.elapsed() < time || waiting.iter().any(|events| !events.is_empty()) {
            let due = per_second * start.elapsed().min(time).as_secs_f64() - f64::from(sent);
            let count = whole(due);
            if count > 0 {
                sent += count;
                for (shard, newest) in self.append(usize::try_from(count)?).await? {
                    let before = known.insert(shard, newest).unwrap_or(0);
                    waiting[usize::from(shard.index())].push_back((newest, newest - before, Instant::now()));
                }
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                for (shard, applied) in self.applied().await? {
                    settle(&mut waiting[usize::from(shard.index())], applied, &mut lags);
                }
                if start.elapsed() > time + STUCK_AFTER {
                    bail!("the consumer did not catch up within {} s after the stream", STUCK_AFTER.as_secs());
                }
            }
            tokio::time::sleep(TICK).await;
        }
        let quantile = |quantile| Some(lags.value_at_quantile(quantile));
        let rate = f64::from(sent) / time.as_secs_f64();
        Ok(Sample { per_second: rate, p50_micros: quantile(0.5), p99_micros: quantile(0.99), ..Sample::new("weir") })
    }
}

/// Batches of which the last number is applied have arrived.
fn settle(waiting: &mut VecDeque<(i64, i64, Instant)>, applied: i64, lags: &mut hdrhistogram::Histogram<u64>) {
    while let Some((newest, events, at)) = waiting.front() {
        if *newest > applied {
            return;
        }
        let micros = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        lags.saturating_record_n(micros.max(1), u64::try_from(*events).unwrap_or(1));
        waiting.pop_front();
    }
}

/// The whole part of a small positive number, without a cast.
fn whole(number: f64) -> u32 {
    let mut whole = 0;
    while f64::from(whole) + 1.0 <= number {
        whole += 1;
    }
    whole
}
