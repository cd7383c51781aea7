//! Something on a port that plays config-service, well or badly, at the test's command.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const EVENT_STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

#[derive(Clone, Debug)]
pub enum Act {
    /// Closes every connection, the open ones too.
    Away,
    /// Answers with these bytes and then stays silent.
    Says(Vec<u8>),
}

impl Act {
    pub fn stream(body: impl AsRef<[u8]>) -> Self {
        Self::Says([EVENT_STREAM.as_bytes(), body.as_ref()].concat())
    }

    pub fn settings(settings: &domain::settings::Settings) -> Self {
        let document = serde_json::to_string(settings).unwrap();
        Self::stream(format!("event: settings\nid: {}\ndata: {document}\n\n", settings.version))
    }
}

pub struct Source {
    pub url: String,
    act: watch::Sender<Act>,
    /// The request heads that arrived.
    pub requests: watch::Receiver<Vec<String>>,
}

impl Source {
    pub async fn new(first: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (act, acts) = watch::channel(first);
        let (log, requests) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(stream, acts.clone(), log.clone()));
            }
        });
        Self { url, act, requests }
    }

    /// Ends what was and does this from now on.
    pub fn act(&self, act: Act) {
        self.act.send(act).unwrap();
    }
}

async fn play(mut stream: TcpStream, mut acts: watch::Receiver<Act>, log: watch::Sender<Vec<String>>) {
    let Act::Says(answer) = acts.borrow_and_update().clone() else { return };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    log.send_modify(|log| log.push(String::from_utf8_lossy(&head).into_owned()));
    if stream.write_all(&answer).await.is_ok() {
        let _ = acts.changed().await;
    }
}
