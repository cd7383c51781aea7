//! Which server keeps a key: the one there is, or a node of a Cluster.

use crate::{
    address::Address,
    cluster::{Cluster, slot_of},
    connection::{ConnectError, Connection, Outcome, STORE, Server, ping},
};
use futures::future::try_join_all;
use ports::{Result, StoreError};
use redis::RedisResult;
use std::{future::Future, time::Duration};
use tokio::time::Instant;

pub(crate) struct Servers {
    kind: Kind,
    budget: Duration,
}

enum Kind {
    One(Connection),
    Cluster(Cluster),
}

/// Where keys lie together: one script reaches all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(Option<u16>);

impl Place {
    /// Of a server that keeps everything.
    pub(crate) const THE_ONLY_ONE: Self = Self(None);
}

impl Servers {
    /// Returns at once; the servers may be away.
    pub(crate) fn open(url: &str, budget: Duration) -> Result<Self, ConnectError> {
        let kind = match Address::parse(url)? {
            Address::Server(server) => Kind::One(Connection::open(server, budget).map_err(ConnectError::Url)?),
            Address::Cluster(seeds) => Kind::Cluster(Cluster::open(seeds, budget)),
        };
        Ok(Self { kind, budget })
    }

    /// Whether keys of different tags may lie on different servers.
    pub(crate) const fn divided(&self) -> bool {
        matches!(self.kind, Kind::Cluster(_))
    }

    /// Of a key, or of the tag of keys that lie together.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        Place(self.divided().then(|| slot_of(key)))
    }

    /// What one call of the port may take in all.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.budget
    }

    /// Runs `call` where the keys of a place are. It is repeated only where a node says that it has not run.
    pub(crate) async fn run<T, F>(&self, place: Place, deadline: Instant, call: impl Fn(Server) -> F) -> Result<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        match &self.kind {
            Kind::One(connection) => done(connection.run(deadline, call).await?),
            Kind::Cluster(cluster) => cluster.run(place.0.unwrap_or_default(), deadline, call).await,
        }
    }

    /// Answers if every server does.
    pub(crate) async fn ping(&self) -> Result<()> {
        let deadline = self.deadline();
        match &self.kind {
            Kind::One(connection) => done(connection.run(deadline, |server| ping(server.connection)).await?),
            Kind::Cluster(cluster) => {
                let nodes = cluster.all(deadline).await?;
                let pings = nodes.iter().map(|node| node.run(deadline, |server| ping(server.connection)));
                try_join_all(pings).await.map(drop)
            }
        }
    }
}

/// A single server sends nobody elsewhere.
fn done<T>(outcome: Outcome<T>) -> Result<T> {
    match outcome {
        Outcome::Done(answer) => Ok(answer),
        Outcome::Elsewhere(_) => {
            Err(StoreError::unavailable(STORE, "this server is a node of a cluster; name it as redis+cluster://host:port"))
        }
    }
}
