//! Each fault, between a client and a server of a few lines.

use super::{conversation::Unit, *};
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

const PRODUCE: &[u8] = &[0, 0, 0, 10, 0, 0, 0, 9, 0, 0, 0, 7, b'h', b'i'];
const ANSWER: &[u8] = &[0, 0, 0, 6, 0, 0, 0, 7, b'o', b'k'];
const SOON: Duration = Duration::from_secs(5);
/// Nothing comes within this time.
const NOTHING: Duration = Duration::from_millis(150);

/// Tells of each produce that it got and answers it, in two pieces.
async fn broker() -> (SocketAddr, mpsc::UnboundedReceiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut request = [0; PRODUCE.len()];
                while client.read_exact(&mut request).await.is_ok() {
                    told.send(Instant::now()).unwrap();
                    let (first, second) = ANSWER.split_at(5);
                    // Whoever is gone needs no answer.
                    let _sent = client.write_all(first).await;
                    let _sent = client.write_all(second).await;
                }
            });
        }
    });
    (address, heard)
}

struct Scene {
    proxy: Proxy,
    client: TcpStream,
    heard: mpsc::UnboundedReceiver<Instant>,
    asked: Instant,
}

impl Scene {
    /// A produce is on its way through a proxy with this fault.
    async fn of(fault: Option<Fault>) -> Self {
        let (address, heard) = broker().await;
        let proxy = Proxy::start(Protocol::Kafka, "127.0.0.1:0", address).await.unwrap();
        if let Some(fault) = fault {
            proxy.arm(fault, 1, 1);
        }
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(PRODUCE).await.unwrap();
        Self { proxy, client, heard, asked: Instant::now() }
    }

    async fn reaches_the_server(&mut self) -> Duration {
        timeout(SOON, self.heard.recv()).await.unwrap().unwrap() - self.asked
    }

    async fn is_answered(&mut self) -> Duration {
        let mut answer = [0; ANSWER.len()];
        timeout(SOON, self.client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, ANSWER);
        self.asked.elapsed()
    }

    async fn hears_nothing(&mut self) {
        timeout(NOTHING, self.client.read_u8()).await.unwrap_err();
    }

    /// Without a single byte before it.
    async fn is_cut(&mut self) {
        timeout(SOON, self.client.read_u8()).await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_was_earned_and_does_not_begin() {
    let mut scene = Scene::of(Some(Fault::CutAnswer)).await;
    scene.reaches_the_server().await;
    scene.is_cut().await;
    assert_eq!(scene.proxy.done(), 1);
}

#[tokio::test]
async fn a_request_that_is_cut_reaches_nobody_and_the_next_connection_is_sound() {
    let mut scene = Scene::of(Some(Fault::CutRequest)).await;
    scene.is_cut().await;
    assert!(scene.heard.try_recv().is_err());
    scene.client = TcpStream::connect(scene.proxy.address).await.unwrap();
    scene.client.write_all(PRODUCE).await.unwrap();
    scene.is_answered().await;
}

#[tokio::test]
async fn a_request_that_is_sent_twice_is_answered_once() {
    let mut scene = Scene::of(Some(Fault::Duplicate)).await;
    scene.reaches_the_server().await;
    scene.reaches_the_server().await;
    scene.is_answered().await;
    scene.hears_nothing().await;
}

#[tokio::test]
async fn a_late_request_arrives_although_its_client_has_left() {
    let delay = Duration::from_millis(200);
    let mut scene = Scene::of(Some(Fault::DelayRequest(delay))).await;
    scene.client.shutdown().await.unwrap();
    assert!(scene.reaches_the_server().await >= delay);
}

#[tokio::test]
async fn a_late_answer_is_whole() {
    let delay = Duration::from_millis(200);
    let mut scene = Scene::of(Some(Fault::DelayAnswer(delay))).await;
    assert!(scene.reaches_the_server().await < delay);
    assert!(scene.is_answered().await >= delay);
}

#[tokio::test]
async fn a_silent_connection_stays_open() {
    let mut scene = Scene::of(Some(Fault::Silence)).await;
    scene.reaches_the_server().await;
    scene.hears_nothing().await;
}

#[tokio::test]
async fn a_black_hole_gives_back_what_fell_into_it() {
    let mut scene = Scene::of(None).await;
    scene.is_answered().await;
    scene.proxy.condition(Condition::BlackHole);
    scene.client.write_all(PRODUCE).await.unwrap();
    scene.hears_nothing().await;
    scene.proxy.condition(Condition::Open);
    scene.is_answered().await;
}

#[tokio::test]
async fn a_trickle_takes_its_time() {
    let mut scene = Scene::of(None).await;
    scene.is_answered().await;
    scene.proxy.condition(Condition::Throttled { bytes_per_sec: 100 });
    scene.asked = Instant::now();
    scene.client.write_all(PRODUCE).await.unwrap();
    // 14 bytes there and 10 back.
    assert!(scene.is_answered().await >= Duration::from_millis(240));
}

/// What comes of bytes that arrive in pieces of `step`: the byte at this place of each unit, and whether it is marked.
pub(super) fn units(
    place: usize,
    mut next: impl FnMut(&mut BytesMut) -> Result<Option<Unit>>,
    bytes: &[u8],
    step: usize,
) -> Vec<(u8, bool)> {
    let (mut arrived, mut units) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        arrived.extend_from_slice(piece);
        while let Some(unit) = next(&mut arrived).unwrap() {
            units.push((unit.bytes[place], unit.marked));
        }
    }
    units
}
