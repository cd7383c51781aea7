//! The proxy between Weir's own drivers and the real servers.

use chaos::{
    proxy::{Condition, Fault, Protocol},
    stack::Stack,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use scylla::client::session_builder::SessionBuilder;
use sqlx::{Connection, Executor, PgConnection};
use std::time::{Duration, Instant};

pub async fn each_fault_reaches_the_driver_where_it_was_aimed(stack: &Stack) {
    postgres(stack).await;
    redis(stack).await;
    kafka(stack).await;
    cassandra(stack).await;
}

/// What was committed is there although its answer never came; what was cut before it is not.
async fn postgres(stack: &Stack) {
    let proxy = stack.proxy(Protocol::Postgres).await.unwrap();
    let direct = stack.setting("WEIR__POSTGRES__URL").unwrap();
    let (user, _) = direct.rsplit_once('@').unwrap();
    let through = format!("{user}@{}/weir?sslmode=disable", proxy.address);
    let mut straight = PgConnection::connect(direct).await.unwrap();
    straight.execute("DROP TABLE IF EXISTS proxied; CREATE TABLE proxied (n integer)").await.unwrap();
    for (fault, rows) in [(Fault::CutAnswer, 1i64), (Fault::CutRequest, 1)] {
        let mut connection = PgConnection::connect(&through).await.unwrap();
        proxy.arm(fault, 1, 1);
        let mut transaction = connection.begin().await.unwrap();
        transaction.execute("INSERT INTO proxied VALUES (1)").await.unwrap();
        transaction.commit().await.unwrap_err();
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM proxied").fetch_one(&mut straight).await.unwrap();
        assert_eq!(found, rows, "{fault:?}");
    }
    assert_eq!(proxy.done(), 2);
}

/// A script whose reply is cut has run once; a black hole holds back and loses nothing.
async fn redis(stack: &Stack) {
    let proxy = stack.proxy(Protocol::Redis).await.unwrap();
    let client = ::redis::Client::open(format!("redis://{}", proxy.address)).unwrap();
    let script = ::redis::Script::new("return redis.call('INCR', 'proxied')");
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let first: i64 = script.invoke_async(&mut connection).await.unwrap();
    proxy.arm(Fault::CutAnswer, 1, 1);
    script.invoke_async::<_, i64>(&mut connection).await.unwrap_err();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    proxy.condition(Condition::BlackHole);
    let began = Instant::now();
    let (answer, ()) = tokio::join!(script.invoke_async::<_, i64>(&mut connection), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.condition(Condition::Open);
    });
    assert_eq!(answer.unwrap(), first + 2);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

/// A record whose acknowledgement is cut, and one that arrives twice, are in the log once: the producer is idempotent.
async fn kafka(stack: &Stack) {
    let proxy = stack.proxy(Protocol::Kafka).await.unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", stack.setting("WEIR__KAFKA__BROKERS").unwrap());
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic = format!("proxied-{}", uuid::Uuid::new_v4());
    admin.create_topics([&NewTopic::new(&topic, 1, TopicReplication::Fixed(1))], &AdminOptions::new()).await.unwrap();
    let mut through = config.clone();
    through.set("bootstrap.servers", proxy.address.to_string()).set("enable.idempotence", "true").set("reconnect.backoff.ms", "50");
    let producer: FutureProducer = through.create().unwrap();
    for fault in [Fault::CutAnswer, Fault::Duplicate, Fault::DelayAnswer(Duration::from_millis(200))] {
        let done = proxy.done();
        proxy.arm(fault, 1, 1);
        producer.send(FutureRecord::to(&topic).partition(0).key("k").payload("v"), Timeout::Never).await.unwrap();
        assert_eq!(proxy.done(), done + 1, "{fault:?}");
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let (_, end) = consumer.fetch_watermarks(&topic, 0, Duration::from_secs(20)).unwrap();
    assert_eq!(end, 3);
}

/// A write whose result is cut has happened, one that arrives twice is answered once, one that is held back arrives.
async fn cassandra(stack: &Stack) {
    let proxy = stack.proxy(Protocol::Cassandra).await.unwrap();
    let session = async |node: &str| SessionBuilder::new().known_node(node).build().await.unwrap();
    let straight = session(stack.setting("WEIR__CASSANDRA__NODES").unwrap()).await;
    for statement in [
        "CREATE KEYSPACE IF NOT EXISTS proxied WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE IF NOT EXISTS proxied.row (n int PRIMARY KEY)",
        "TRUNCATE proxied.row",
    ] {
        straight.query_unpaged(statement, &[]).await.unwrap();
    }
    let through = session(&proxy.address.to_string()).await;
    let insert = through.prepare("INSERT INTO proxied.row (n) VALUES (?)").await.unwrap();
    let late = Duration::from_millis(200);
    let faults = [Fault::CutAnswer, Fault::Duplicate, Fault::DelayRequest(late), Fault::DelayAnswer(late)];
    for (fault, n) in faults.into_iter().zip(1i32..) {
        let done = proxy.done();
        proxy.arm(fault, 1, 1);
        let answer = insert_until_connected(&through, &insert, n).await;
        assert_eq!(answer.is_err(), fault == Fault::CutAnswer, "{fault:?}: {answer:?}");
        assert_eq!(proxy.done(), done + 1, "{fault:?}");
        let rows = straight.query_unpaged("SELECT n FROM proxied.row", &[]).await.unwrap().into_rows_result().unwrap();
        assert_eq!(i32::try_from(rows.rows_num()).unwrap(), n, "{fault:?}");
    }
}

/// The driver notices only after a moment that connections are gone and makes new ones.
async fn insert_until_connected(
    session: &scylla::client::session::Session,
    insert: &scylla::statement::prepared::PreparedStatement,
    n: i32,
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match session.execute_unpaged(insert, (n,)).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                let text = format!("{error:?}");
                if !text.contains("ConnectionPool") && !text.contains("EmptyPlan") || began.elapsed() > Duration::from_secs(20) {
                    return Err(text);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
