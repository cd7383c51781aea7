//! Lines that come in any pieces, and events in every mode.

use super::{
    Mode,
    cloud_event::CloudEvent,
    lines::{LONGEST_LINE, Line, Lines},
    mode_of,
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue},
};
use futures::stream;
use std::convert::Infallible;

fn body_of(pieces: Vec<Vec<u8>>) -> Body {
    Body::from_stream(stream::iter(pieces.into_iter().map(|piece| Ok::<Bytes, Infallible>(piece.into()))))
}

async fn lines_of(pieces: Vec<Vec<u8>>) -> Vec<(u64, Line)> {
    let mut lines = Lines::new(body_of(pieces));
    let mut found = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        found.push(line);
    }
    found
}

#[tokio::test]
async fn lines_are_the_same_in_whatever_pieces_they_come() {
    let text = b"one\r\n\n  \ntwo\nthree";
    let expected = [(1, Line::Text("one\r".into())), (4, Line::Text("two".into())), (5, Line::Text("three".into()))];
    for size in 1..=text.len() {
        let pieces = text.chunks(size).map(<[u8]>::to_vec).collect();
        assert_eq!(lines_of(pieces).await, expected, "pieces of {size}");
    }
    assert_eq!(lines_of(vec![]).await, []);
}

#[tokio::test]
async fn of_a_line_of_10_mb_nothing_is_kept_and_the_next_one_is_read() {
    let mut pieces = vec![b"one\n".to_vec()];
    pieces.extend((0..160).map(|_| vec![b'x'; 65_536]));
    pieces.push(b"\ntwo\n".to_vec());
    assert_eq!(lines_of(pieces).await, [(1, Line::Text("one".into())), (2, Line::TooLong), (3, Line::Text("two".into()))]);
    let exact = vec![b'x'; LONGEST_LINE];
    assert_eq!(lines_of(vec![exact.clone(), b"\n".to_vec()]).await, [(1, Line::Text(exact.clone().into()))]);
    assert_eq!(lines_of(vec![exact, b"x\n".to_vec()]).await, [(1, Line::TooLong)]);
    assert_eq!(lines_of(vec![vec![b'x'; LONGEST_LINE + 1]]).await, [(1, Line::TooLong)], "also without an end");
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

#[test]
fn the_content_type_says_how_events_are_written() {
    let of = |pairs: &[(&'static str, &'static str)]| mode_of(&headers(pairs)).ok();
    assert_eq!(of(&[("content-type", "application/cloudevents+json; charset=utf-8")]), Some(Mode::Structured));
    assert_eq!(of(&[("content-type", "application/cloudevents-batch+json")]), Some(Mode::Batch));
    assert_eq!(of(&[("content-type", "application/json")]), Some(Mode::Structured));
    assert_eq!(of(&[("content-type", "application/json"), ("ce-id", "1")]), Some(Mode::Binary));
    assert_eq!(of(&[("content-type", "Application/X-NDJSON")]), Some(Mode::Lines));
    assert_eq!(mode_of(&headers(&[("content-type", "text/csv")])).unwrap_err().status(), 415);
    assert_eq!(of(&[]), None);
}

#[test]
fn what_is_wrong_with_an_event_is_named() {
    let field = |text: &str| {
        let (_, read) = CloudEvent::structured(text.as_bytes());
        read.err().map(|problem| problem.body()["errors"][0]["field"].as_str().unwrap_or_default().to_owned())
    };
    let event = |attributes: &str| format!(r#"{{{attributes}"data":{{"provider":"openai","tokens":1}}}}"#);
    let full = r#""specversion":"1.0","id":"1","source":"/s","type":"t","#;
    assert_eq!(field(&event(full)), None);
    assert_eq!(field(&event(&format!("{full}\"traceparent\":\"an extension\","))), None);
    assert_eq!(field(&event(r#""id":"1","source":"/s","type":"t","#)).as_deref(), Some("specversion"));
    assert_eq!(field(&event(&full.replace("1.0", "0.3"))).as_deref(), Some("specversion"));
    for name in ["id", "source", "type"] {
        let without: String = full.split_inclusive(',').filter(|part| !part.starts_with(&format!("\"{name}\""))).collect();
        assert_eq!(field(&event(&without)).as_deref(), Some(name));
    }
    assert_eq!(field(&event(&format!("{full}\"time\":\"yesterday\","))).as_deref(), Some("time"));
    assert_eq!(field(&format!("{{{full}\"data_base64\":\"eA==\"}}")).as_deref(), Some("data_base64"));
    assert_eq!(field(&format!("{{{}}}", full.trim_end_matches(','))).as_deref(), Some("data"));
    assert_eq!(field(&event(full).replace("tokens", "tokenz")).as_deref(), Some("tokenz"));
    assert_eq!(field(&event(&format!("{full}\"id\":\"2\","))).as_deref(), Some("id"), "given twice");
    assert_eq!(field("{").as_deref(), Some("body"));
}
