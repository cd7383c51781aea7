//! A Redis that falls silent, restarts, fails over or moves its slots.

use super::{bucket, new_payer, request, rule, tokens, url};
use crate::{
    RedisRateLimits,
    cluster::slot_of,
    keys::tag,
    scripts::{ANNOUNCE, Arguments},
    servers::Servers,
};
use domain::{
    bucket::Ask,
    ids::{OrgId, Payer},
};
use own_redis::{OwnCluster, OwnRedis};
use ports::{
    StoreError,
    rate_limits::{RateLimits, Take, TakeAnswer, Use, Verdict},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    time::{Instant, sleep},
};
use uuid::Uuid;

const RECOVERS_WITHIN: Duration = Duration::from_secs(30);

/// Once the store answers again.
async fn answered(limits: &RedisRateLimits, take: &Take) -> TakeAnswer {
    let started = Instant::now();
    loop {
        match limits.take(std::slice::from_ref(take)).await {
            Ok(mut answers) => return answers.remove(0),
            Err(error) => assert!(started.elapsed() < RECOVERS_WITHIN, "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Passes connections on to Redis; while `silent` says so it accepts everything and forwards nothing.
async fn proxy(listener: TcpListener, silent: watch::Receiver<bool>) {
    async fn forward(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
        let mut bytes = vec![0; 65_536];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            // What comes meanwhile is kept, as by a network that has lost its way.
            let open = silent.wait_for(|silent| !silent).await.is_ok();
            if !open || to.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    }
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(url().trim_start_matches("redis://")).await.unwrap();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::spawn(forward(from_client, to_server, silent.clone()));
        tokio::spawn(forward(from_server, to_client, silent.clone()));
    }
}

fn reason(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable { source, .. } => source.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redis_that_falls_silent_costs_one_budget_and_then_nothing_until_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (silence, silent) = watch::channel(false);
    let proxied = tokio::spawn(proxy(listener, silent));
    let limits = RedisRateLimits::connect(&format!("redis://{address}"), "weir-test", Duration::from_millis(200)).await.unwrap();
    let take = request(vec![bucket(new_payer().await, "x", rule(1_000, 1_000))], 1);
    for _ in 0..3 {
        assert!(answered(&limits, &take).await.allowed());
        silence.send_replace(true);
        // The first one finds out, with its budget; nobody after it waits.
        let first = limits.take(std::slice::from_ref(&take)).await.unwrap_err();
        assert_eq!(reason(&first), "deadline has elapsed");
        for _ in 0..200 {
            let next = limits.take(std::slice::from_ref(&take)).await.unwrap_err();
            assert_eq!(reason(&next), "did not answer lately");
        }
        silence.send_replace(false);
    }
    assert!(answered(&limits, &take).await.allowed());
    proxied.abort();
}

/// Takes ten times ten tokens, of which the ledger knows the first eight; then `lose` lets the store lose what it holds. The payer is
/// forgotten, restored from its ledger, and what may pass above the limit is what was not in the ledger yet.
async fn is_restored(limits: &RedisRateLimits, payer: Payer, lose: impl FnOnce()) {
    let buckets = vec![bucket(payer, "x", rule(100, 1))];
    assert_eq!(answered(limits, &request(buckets.clone(), 1)).await.verdict, Verdict::Forgotten);
    limits.restore(payer, &[]).await.unwrap();
    let take = request(buckets.clone(), 10);
    for _ in 0..10 {
        assert!(answered(limits, &take).await.allowed());
    }
    lose();
    let after = answered(limits, &take).await;
    assert_eq!(after.verdict, Verdict::Forgotten, "{after:?}");
    let used = |age_ms| Use { buckets: buckets.clone(), ask: Ask { amount: tokens(10), hold: None }, age_ms };
    limits.restore(payer, &(0..8).rev().map(used).collect::<Vec<_>>()).await.unwrap();
    let verdicts: Vec<Verdict> = [answered(limits, &take).await, answered(limits, &take).await, answered(limits, &take).await]
        .into_iter()
        .map(|answer| answer.verdict)
        .collect();
    assert_eq!(verdicts, [Verdict::Allowed, Verdict::Allowed, Verdict::Refused]);
}

#[tokio::test]
async fn a_restarted_redis_is_restored_from_the_ledger() {
    let mut server = OwnRedis::start(&[]);
    let limits = RedisRateLimits::connect(&server.url(), "weir", Duration::from_secs(5)).await.unwrap();
    is_restored(&limits, Payer::Org(OrgId(Uuid::new_v4())), || {
        server.kill();
        server.start_again();
    })
    .await;
}

/// With its data on disk, too: the last second of it may be lost.
#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_is_restored_all_the_same() {
    let mut server = OwnRedis::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let limits = RedisRateLimits::connect(&server.url(), "weir", Duration::from_secs(5)).await.unwrap();
    is_restored(&limits, Payer::Org(OrgId(Uuid::new_v4())), || {
        server.kill();
        server.start_again();
    })
    .await;
}

/// A payer whose buckets are on the first of three nodes, or not.
fn payer_of_the_first_node(first: bool) -> Payer {
    let on_first = |payer: &Payer| slot_of(&tag(&bucket(*payer, "x", rule(1, 1)).key)) <= 5_460;
    std::iter::repeat_with(|| Payer::Org(OrgId(Uuid::new_v4()))).find(|payer| on_first(payer) == first).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_is_restored_from_the_ledger_and_the_other_nodes_go_on() {
    let mut cluster = tokio::task::spawn_blocking(OwnCluster::start).await.unwrap();
    let limits = RedisRateLimits::connect(&cluster.url(), "weir", Duration::from_secs(5)).await.unwrap();
    let elsewhere = payer_of_the_first_node(false);
    limits.restore(elsewhere, &[]).await.unwrap();
    let other = request(vec![bucket(elsewhere, "x", rule(100, 1))], 60);
    assert!(answered(&limits, &other).await.allowed());
    is_restored(&limits, payer_of_the_first_node(true), || {
        cluster.nodes[0].kill();
        cluster.nodes[3].wait_for(&["role"], "master");
    })
    .await;
    // Known to its node, with what it has used.
    assert_eq!(limits.take(std::slice::from_ref(&other)).await.unwrap()[0].verdict, Verdict::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_to_another_node_are_followed() {
    let cluster = tokio::task::spawn_blocking(OwnCluster::start).await.unwrap();
    let limits = RedisRateLimits::connect(&cluster.url(), "weir", Duration::from_secs(5)).await.unwrap();
    let payer = payer_of_the_first_node(true);
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let slot = slot_of(&payer.tenant().to_string()).to_string();
    is_restored(&limits, payer, || {
        let (source, target) = (from.ask(&["cluster", "myid"]), to.ask(&["cluster", "myid"]));
        to.ask(&["cluster", "setslot", &slot, "importing", source.trim()]);
        from.ask(&["cluster", "setslot", &slot, "migrating", target.trim()]);
        let keys = from.ask(&["cluster", "getkeysinslot", &slot, "100"]);
        for key in keys.lines().filter(|key| !key.is_empty()) {
            from.ask(&["migrate", "127.0.0.1", &to.port.to_string(), key, "0", "5000"]);
        }
        for node in [to, from] {
            node.ask(&["cluster", "setslot", &slot, "node", target.trim()]);
        }
    })
    .await;
}

#[tokio::test]
async fn processes_that_share_the_buckets_are_counted_as_long_as_they_are_heard_of() {
    let servers = Servers::open(&url(), Duration::from_secs(5)).unwrap();
    let key = format!("weir-test:{}:processes", Uuid::new_v4());
    let heard = async |process: &str, now_ms: i64| {
        let mut arguments = Arguments { keys: vec![key.clone()], now_ms: Some(now_ms), ..Arguments::default() };
        arguments.push_text(process.to_owned());
        arguments.push(10_000);
        servers.run(servers.place_of(&key), servers.deadline(), |server| ANNOUNCE.call(server, &arguments)).await.unwrap()[0]
    };
    assert_eq!([heard("a", 1_000).await, heard("b", 2_000).await, heard("a", 3_000).await, heard("c", 3_000).await], [1, 2, 2, 3]);
    assert_eq!([heard("a", 12_000).await, heard("a", 13_001).await], [2, 1]);
}

#[tokio::test]
async fn each_process_learns_how_many_there_are() {
    let prefix = format!("weir-test-{}", Uuid::new_v4().simple());
    let url = url();
    let connect = || RedisRateLimits::connect(&url, &prefix, Duration::from_secs(5));
    // Not everybody who can reach the buckets decides by them.
    let _looks_on = connect().await.unwrap();
    let all = [connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap()];
    all.iter().for_each(RateLimits::join);
    let started = Instant::now();
    while all.iter().any(|limits| limits.processes() != 3) {
        assert!(started.elapsed() < RECOVERS_WITHIN, "{:?}", all.each_ref().map(|limits| limits.processes()));
        sleep(Duration::from_millis(50)).await;
    }
}
