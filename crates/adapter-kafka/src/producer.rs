//! Producing in runs: one acknowledgement per run, counted in the delivery callback. Nothing here ever calls `flush`.

use crate::{
    client::{because, log_error, unavailable},
    record::{headers, partition_of},
};
use domain::ids::Shard;
use futures::{future::Either, poll};
use ports::{Result, StoreError, event_log::Acknowledgement, outbox::OutboxRow};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use std::{
    future::ready,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep},
};

/// How long to wait before trying a full queue again: about what a broker needs for a batch.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);

/// Brokers forget a producer whose last record is a day old (`producer.id.expiration.ms`).
const KNOWN_FOR: Duration = Duration::from_hours(1);

const FAILED_EARLIER: &str = "an earlier delivery failed";

/// Records handed over without letting other tasks run: about half a millisecond.
const RECORDS_PER_TURN: usize = 256;

/// One life of an idempotent producer. After the first failed delivery it is never used again: what it still holds could
/// otherwise land behind a hole.
pub(crate) struct Producer {
    inner: ThreadedProducer<Deliveries>,
    failed: Arc<AtomicBool>,
    /// Of each shard's partition: when something was last sent that its broker knows this producer by. Who holds it may send.
    lines: Vec<Arc<tokio::sync::Mutex<Option<Instant>>>>,
}

pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
    pub(crate) headers: OwnedHeaders,
}

/// What the callback needs to know.
pub(crate) struct Deliveries {
    failed: Arc<AtomicBool>,
}

/// Records that are acknowledged together.
pub(crate) struct Run {
    /// Records without an answer, and one for the hand-over itself.
    open: AtomicUsize,
    answer: Mutex<Option<oneshot::Sender<Result<(), KafkaError>>>>,
}

/// `delivery_timeout` of `None`: a record waits for its broker however long that takes.
pub(crate) fn config(mut base: ClientConfig, delivery_timeout: Option<Duration>) -> ClientConfig {
    base.set("enable.idempotence", "true")
        .set("acks", "all")
        // A batch that fails stops the producer instead of leaving a hole before the next one.
        .set("enable.gapless.guarantee", "true")
        .set("message.timeout.ms", delivery_timeout.map_or(0, |timeout| timeout.as_millis()).to_string())
        .set("compression.type", "lz4")
        .set("linger.ms", "1")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "524288");
    base
}

impl Producer {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self> {
        let failed = Arc::new(AtomicBool::new(false));
        let context = Deliveries { failed: Arc::clone(&failed) };
        let inner = config.create_with_context(context).map_err(unavailable)?;
        let lines = Shard::all().map(|_| Arc::default()).collect();
        Ok(Self { inner, failed, lines })
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Queues the rows in order. Dropped half-way, the first part is sent and nobody waits for it: a shorter run.
    ///
    /// The first row that goes to a partition goes alone, and the rest with its acknowledgement. A broker takes any sequence number of a
    /// producer that it does not know: of several batches in flight it could refuse the first, because it is still making the partition, and
    /// take the next.
    pub(crate) async fn append(self: &Arc<Self>, topic: &str, shard: Shard, mut rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        let line = self.lines.get(usize::from(shard.index())).map(Arc::clone).unwrap_or_default();
        if let Ok(mut known) = line.try_lock()
            && is_known(*known)
        {
            *known = Some(Instant::now());
            return self.queue(topic, shard, &rows).await;
        }
        let mut turn = Box::pin(line.lock_owned());
        // Runs are in line as they were handed over, not as they are waited for.
        let turn = match poll!(&mut turn) {
            Poll::Ready(known) => Either::Left(ready(known)),
            Poll::Pending => Either::Right(turn),
        };
        // What waits must not keep the library's threads from ending.
        let (producer, topic) = (Arc::downgrade(self), topic.to_owned());
        Ok(Box::pin(async move {
            let mut known = turn.await;
            let producer = || producer.upgrade().ok_or_else(|| because(FAILED_EARLIER));
            if !is_known(*known) {
                let rest = rows.split_off(rows.len().min(1));
                let first = producer()?.queue(&topic, shard, &rows).await?;
                first.await?;
                rows = rest;
            }
            *known = Some(Instant::now());
            let queued = producer()?.queue(&topic, shard, &rows).await?;
            drop(known);
            queued.await
        }))
    }

    async fn queue(&self, topic: &str, shard: Shard, rows: &[OutboxRow]) -> Result<Acknowledgement> {
        let (run, answer) = Run::start();
        for (index, row) in rows.iter().enumerate() {
            let value = event_codec::frame(&row.payload);
            let mut buffer = [0; 36];
            let key = row.tenant.hyphenated().encode_lower(&mut buffer);
            self.send(&run, Outgoing { topic, partition: partition_of(shard), key, value: &value, headers: headers(row) }).await?;
            if index % RECORDS_PER_TURN == RECORDS_PER_TURN - 1 {
                yield_now().await;
            }
        }
        run.answered(&self.failed, Ok(()));
        Ok(Box::pin(acknowledged(answer)))
    }

    /// Waits while the queue is full.
    pub(crate) async fn send(&self, run: &Arc<Run>, outgoing: Outgoing<'_>) -> Result<()> {
        let mut record = BaseRecord::with_opaque_to(outgoing.topic, Arc::clone(run))
            .partition(outgoing.partition)
            .key(outgoing.key)
            .payload(outgoing.value)
            .headers(outgoing.headers);
        loop {
            if self.has_failed() {
                return Err(because(FAILED_EARLIER));
            }
            // Counted before it is sent: the callback may be faster than we are.
            run.open.fetch_add(1, Ordering::SeqCst);
            match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    run.open.fetch_sub(1, Ordering::SeqCst);
                    record = returned;
                    sleep(QUEUE_FULL_PAUSE).await;
                }
                Err((error, _)) => {
                    self.failed.store(true, Ordering::SeqCst);
                    return Err(unavailable(error));
                }
            }
        }
    }
}

fn is_known(last_sent: Option<Instant>) -> bool {
    last_sent.is_some_and(|sent| sent.elapsed() < KNOWN_FOR)
}

/// Waits for the run's answer.
pub(crate) async fn acknowledged(answer: oneshot::Receiver<Result<(), KafkaError>>) -> Result<()> {
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(unavailable(error)),
        Err(dropped) => Err(StoreError::unavailable("kafka", dropped)),
    }
}

impl Run {
    pub(crate) fn start() -> (Arc<Self>, oneshot::Receiver<Result<(), KafkaError>>) {
        let (sender, answer) = oneshot::channel();
        (Arc::new(Self { open: AtomicUsize::new(1), answer: Mutex::new(Some(sender)) }), answer)
    }

    /// The first failure answers at once, the last success answers the run; a success beside an earlier failure is none.
    pub(crate) fn answered(&self, failed: &AtomicBool, result: Result<(), KafkaError>) {
        let last = self.open.fetch_sub(1, Ordering::SeqCst) == 1;
        let answer = match result {
            Err(error) => Err(error),
            Ok(()) if !last => return,
            Ok(()) if failed.load(Ordering::SeqCst) => Err(KafkaError::MessageProduction(RDKafkaErrorCode::PurgeInflight)),
            Ok(()) => Ok(()),
        };
        let sender = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The caller may have lost interest.
            let _unheard = sender.send(answer);
        }
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, _reason: &str) {
        log_error(&error);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Run>;

    /// A record is delivered when the broker says where it stands. The library also reports records as delivered that were refused, when the
    /// broker took a later batch: it concludes that they were taken before, but a broker takes any sequence number of a producer that it does
    /// not know, as at the first records of a partition.
    fn delivery(&self, result: &DeliveryResult<'_>, run: Arc<Run>) {
        let (partition, error) = match result {
            Ok(message) if message.offset() >= 0 => return run.answered(&self.failed, Ok(())),
            Ok(message) => (message.partition(), KafkaError::MessageProduction(RDKafkaErrorCode::Inconsistent)),
            Err((error, message)) => (message.partition(), error.clone()),
        };
        // Everybody else must see the failure before this run's owner can react to it.
        if !self.failed.swap(true, Ordering::SeqCst) {
            tracing::error!(%error, partition, "a delivery to kafka failed, the producer is replaced");
        }
        run.answered(&self.failed, Err(error));
    }
}

impl Producer {
    /// Ends a run that was sent record by record.
    pub(crate) fn finish(&self, run: &Run) {
        run.answered(&self.failed, Ok(()));
    }
}
