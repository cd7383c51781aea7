//! Real sockets against the accept loop: slow, silent, oversized and well-behaved clients.

use super::*;
use crate::json::StrictJson;
use axum::{
    extract::Path,
    routing::{get, post},
};
use serde_json::Value;
use std::{net::SocketAddr, time::Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const QUICK: Limits = Limits {
    head: Duration::from_millis(150),
    idle: Duration::from_millis(1_500),
    body_stall: Duration::from_millis(500),
    write_stall: Duration::from_millis(300),
    farewell: Duration::from_millis(200),
    drain: Duration::from_secs(5),
    connections: 100,
};

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let echo = async |StrictJson(body): StrictJson<Value>| axum::Json(body);
        let router = Router::new()
            .route("/echo", post(echo))
            .route("/item/{number}", get(async |Path(number): Path<u32>| number.to_string()))
            .route("/panic", get(async || -> String { panic!("secret detail") }))
            .route("/large", get(async || vec![b'x'; 64 * 1024 * 1024]))
            .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(300)).await));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let ended = tokio::spawn(serve_with(listener, standard_layers(router, "test"), shutdown.clone(), limits));
        Self { address, shutdown, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends the bytes and returns everything until the server closes.
    async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await;
    let text = String::from_utf8(text).unwrap();
    read.unwrap_or_else(|_| panic!("the server does not close after {text:?}")).expect("the answer was destroyed by a reset");
    text
}

fn get_request(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
}

#[track_caller]
fn assert_decorated(answer: &str) {
    for header in [
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
        "referrer-policy: no-referrer",
        "permissions-policy: geolocation=(), microphone=(), camera=()",
        "strict-transport-security: max-age=31536000; includeSubDomains",
        "x-correlation-id: ",
    ] {
        assert!(answer.contains(header), "{header} is missing in {answer}");
    }
}

#[track_caller]
fn assert_problem(answer: &str, status: u16, code: &str) -> Value {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert_decorated(answer);
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body["code"], &body["status"]), (&code.into(), &status.into()));
    assert_eq!(body["type"], format!("/docs/errors/{code}"));
    let id = answer.lines().find_map(|line| line.strip_prefix("x-correlation-id: ")).unwrap();
    assert_eq!(body["requestId"], id);
    body
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_an_id() {
    let server = Server::start(QUICK).await;
    assert_decorated(&server.exchange(get_request("/item/7", "")).await);
    assert_problem(&server.exchange(get_request("/nothing", "")).await, 404, "not_found");
    let refused = server.exchange("DELETE /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(refused.contains("allow: POST"), "{refused}");
    assert_problem(&refused, 405, "method_not_allowed");
    let unreadable = assert_problem(&server.exchange(get_request("/item/seven", "")).await, 400, "validation_failed");
    assert!(unreadable["message"].as_str().unwrap().contains("seven"));
    let plain = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\n{}";
    assert_problem(&server.exchange(plain).await, 415, "unsupported_media_type");
    let broken = server.exchange(get_request("/panic", "")).await;
    assert!(!broken.contains("secret"), "{broken}");
    assert_problem(&broken, 500, "internal");
}

#[tokio::test]
async fn only_a_harmless_correlation_id_is_kept() {
    let server = Server::start(QUICK).await;
    let longest = "a".repeat(64);
    for kept in ["a", "A-z_09", &longest] {
        let answer = server.exchange(get_request("/item/1", &format!("x-correlation-id: {kept}\r\n"))).await;
        assert!(answer.contains(&format!("x-correlation-id: {kept}\r\n")), "{answer}");
    }
    for replaced in ["", "a b", "a\"b", "<script>", "a;b", &"a".repeat(65), "\u{e9}"] {
        let answer = server.exchange(get_request("/item/1", &format!("x-correlation-id: {replaced}\r\n"))).await;
        let id = answer.lines().find_map(|line| line.strip_prefix("x-correlation-id: ")).unwrap();
        assert!(id.len() == 36 && uuid::Uuid::parse_str(id).is_ok(), "{replaced:?} became {id:?}");
    }
}

#[tokio::test]
async fn oversized_heads_and_bodies_are_refused_with_their_limit() {
    let server = Server::start(Limits { head: Duration::from_secs(5), ..QUICK }).await;
    let uri = assert_problem(&server.exchange(get_request(&format!("/{}", "x".repeat(8 * 1024)), "")).await, 414, "uri_too_long");
    assert_eq!(uri["limitBytes"], 8192);
    let many: String = (0..65).map(|index| format!("h{index}: v\r\n")).collect();
    assert_problem(&server.exchange(get_request("/item/1", &many)).await, 431, "headers_too_large");
    let large = format!("h: {}\r\n", "v".repeat(16 * 1024));
    assert_problem(&server.exchange(get_request("/item/1", &large)).await, 431, "headers_too_large");
    let body = vec![b'x'; 3 * 1024 * 1024];
    let mut request = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3145728\r\n\r\n".to_vec();
    request.extend_from_slice(&body);
    assert_eq!(assert_problem(&server.exchange(&request).await, 413, "payload_too_large")["limitBytes"], 2_097_152);
    let mut chunked =
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n300000\r\n".to_vec();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_problem(&server.exchange(&chunked).await, 413, "payload_too_large");
}

#[tokio::test]
async fn heads_that_even_the_parser_refuses_keep_their_status_and_close() {
    let server = Server::start(Limits { head: Duration::from_secs(5), ..QUICK }).await;
    let answer = server.exchange(get_request(&format!("/{}", "x".repeat(70_000)), "")).await;
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
    let many: String = (0..500).map(|index| format!("h{index}: v\r\n")).collect();
    assert!(server.exchange(get_request("/item/1", &many)).await.starts_with("HTTP/1.1 431 "));
    let huge = format!("h: {}\r\n", "v".repeat(300_000));
    assert!(server.exchange(get_request("/item/1", &huge)).await.starts_with("HTTP/1.1 431 "));
    assert!(server.exchange("NOT HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408_and_closed() {
    let server = Server::start(QUICK).await;
    let mut stream = server.connect().await;
    let started = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nx: aaaaaaaaaaaaaaaaaaaaaaaa" {
        // Drop by drop: each byte must not buy more time.
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(3));
    // A second request on a connection that served one before is held to the same limit.
    let mut stream = server.connect().await;
    stream.write_all(b"GET /item/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream.write_all(b"GET /item/2 HTT").await.unwrap();
    assert!(rest(&mut stream).await.contains("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_an_idle_one_kept_for_longer() {
    let server = Server::start(QUICK).await;
    assert_eq!(server.exchange("").await, "", "never spoke");
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /item/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200 "));
        // Longer than a head may take, shorter than a connection may idle.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let started = Instant::now();
    assert_eq!(rest(&mut stream).await, "", "an idle connection gets no answer to a request it did not make");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408_and_closed_and_a_slow_one_is_read() {
    let server = Server::start(Limits { idle: Duration::from_secs(60), ..QUICK }).await;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    assert_problem(&server.exchange(format!("{head}{{\"a\"")).await, 408, "request_timeout");
    assert_problem(&server.exchange(head).await, 408, "request_timeout");
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in b"{\"abc\":1}" {
        tokio::time::sleep(Duration::from_millis(80)).await;
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_handler_may_take_longer_than_any_limit_on_the_client() {
    let server = Server::start(QUICK).await;
    assert!(server.exchange(get_request("/slow", "")).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let server = Server::start(QUICK).await;
    let mut stream = server.connect().await;
    stream.write_all(get_request("/large", "").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut taken = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut taken)).await.expect("still open");
    assert!(taken.len() < 64 * 1024 * 1024, "cut off, yet {} bytes arrived", taken.len());
}

#[tokio::test]
async fn shutdown_finishes_what_is_running_and_closes_the_rest() {
    let server = Server::start(Limits { idle: Duration::from_secs(60), ..QUICK }).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /item/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    idle.read_exact(&mut status).await.unwrap();
    let mut running = server.connect().await;
    running.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    let answer = rest(&mut running).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    rest(&mut idle).await;
    tokio::time::timeout(Duration::from_secs(5), server.ended).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_request_of_the_last_moment_is_answered() {
    for _ in 0..20 {
        let server = Server::start(Limits { farewell: Duration::ZERO, ..QUICK }).await;
        let mut late = server.connect().await;
        late.write_all(b"GET /item/7 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        server.shutdown.cancel();
        let answer = rest(&mut late).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('7'), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_crosses_a_shutdown_is_answered_on_an_old_connection_and_on_a_new_one() {
    let server = Server::start(QUICK).await;
    let mut kept = server.connect().await;
    kept.write_all(b"GET /item/1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    kept.read_exact(&mut status).await.unwrap();
    server.shutdown.cancel();
    let mut waiting = server.connect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for stream in [&mut kept, &mut waiting] {
        stream.write_all(b"GET /item/2 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.contains("HTTP/1.1 200 ") && answer.contains("connection: close") && answer.ends_with('2'), "{answer}");
    }
    drop((kept, waiting));
    tokio::time::timeout(Duration::from_millis(100), server.ended).await.expect("nobody is left to wait for").unwrap().unwrap();
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let server = Server::start(QUICK).await;
    let pipelined: String = (0..5).map(|number| format!("GET /item/{number} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    let answer = server.exchange(pipelined + &get_request("/item/5", "")).await;
    let bodies: Vec<&str> = answer.split("HTTP/1.1 200").skip(1).map(|part| part.trim_end().rsplit('\n').next().unwrap()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn metrics_name_the_route_and_nothing_a_client_chose() {
    crate::telemetry::init_metrics();
    let server = Server::start(QUICK).await;
    server.exchange(get_request("/item/4711", "")).await;
    server.exchange(get_request("/evil/4711", "")).await;
    server.exchange("EVIL /item/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let text = crate::telemetry::render_metrics();
    let line = "http_server_requests_seconds_count{service=\"test\",route=\"/item/{number}\",method=\"GET\",status=\"200\"}";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("route=\"unmatched\",method=\"GET\",status=\"404\""), "{text}");
    assert!(!text.to_lowercase().contains("evil") && !text.contains("4711"), "{text}");
}
