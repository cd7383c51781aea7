//! One connection through the proxy: units go from one side to the other, and faults happen in between.

use super::{Control, Fault, conversation::Conversation};
use anyhow::Result;
use bytes::BytesMut;
use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::sleep,
};

const READ: usize = 64 * 1024;

/// What both directions share. Nobody keeps the lock over an await.
type Shared = Mutex<Box<dyn Conversation>>;

/// Until either side leaves or a fault ends it: then both connections are closed.
pub async fn run(mut client: TcpStream, mut server: TcpStream, conversation: Box<dyn Conversation>, control: &Control) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let conversation = Mutex::new(conversation);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let ended = tokio::select! {
        ended = requests(from_client, to_server, &conversation, control) => ended,
        ended = answers(from_server, to_client, &conversation, control) => ended,
    };
    // That a peer is gone, by its own will or a fault's, is nothing to report.
    ended.or_else(|error| if error.is::<io::Error>() { Ok(()) } else { Err(error) })
}

fn locked(conversation: &Shared) -> MutexGuard<'_, Box<dyn Conversation>> {
    conversation.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn requests(mut client: ReadHalf<'_>, mut server: WriteHalf<'_>, conversation: &Shared, control: &Control) -> Result<()> {
    let mut arrived = BytesMut::with_capacity(READ);
    while client.read_buf(&mut arrived).await? > 0 {
        loop {
            let Some(unit) = locked(conversation).request(&mut arrived)? else { break };
            control.passage(unit.bytes.len()).await;
            let fault = if unit.marked { control.strike(true) } else { None };
            match fault {
                Some(Fault::CutRequest) => return Ok(()),
                Some(Fault::DelayRequest(delay)) => sleep(delay).await,
                Some(Fault::Duplicate) if locked(conversation).sent_twice() => server.write_all(&unit.bytes).await?,
                _ => {}
            }
            server.write_all(&unit.bytes).await?;
        }
    }
    Ok(())
}

async fn answers(mut server: ReadHalf<'_>, mut client: WriteHalf<'_>, conversation: &Shared, control: &Control) -> Result<()> {
    let mut arrived = BytesMut::with_capacity(READ);
    while server.read_buf(&mut arrived).await? > 0 {
        loop {
            let Some(unit) = locked(conversation).answer(&mut arrived)? else { break };
            control.passage(unit.bytes.len()).await;
            let fault = if unit.marked { control.strike(false) } else { None };
            match fault {
                Some(Fault::CutAnswer) => return Ok(()),
                Some(Fault::DelayAnswer(delay)) => sleep(delay).await,
                Some(Fault::Silence) => return std::future::pending().await,
                _ => {}
            }
            client.write_all(&unit.bytes).await?;
        }
    }
    Ok(())
}
