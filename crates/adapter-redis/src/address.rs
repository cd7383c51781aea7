//! Where Redis is: one server, or some nodes of a Cluster.

use crate::connection::ConnectError;
use redis::{ConnectionInfo, IntoConnectionInfo, RedisResult, io::tcp::TcpSettings};

/// `redis://[user:password@]host:port`, or `redis+cluster://[user:password@]host:port[,host:port…]` for a Cluster.
pub(crate) enum Address {
    Server(ConnectionInfo),
    Cluster(Seeds),
}

/// Nodes to ask first, and how every node is logged in to.
#[derive(Clone)]
pub(crate) struct Seeds {
    scheme: String,
    /// `user:password@`, or nothing.
    login: String,
    pub(crate) nodes: Vec<String>,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let Some((scheme, rest)) = url.split_once("+cluster://") else { return Ok(Self::Server(server(url).map_err(ConnectError::Url)?)) };
        let (login, nodes) = rest.rsplit_once('@').map_or(("", rest), |(login, nodes)| (login, nodes));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let nodes: Vec<String> = nodes.trim_end_matches('/').split(',').map(str::to_owned).collect();
        // A Cluster has only the database 0.
        if nodes.iter().any(|node| node.is_empty() || node.contains(['/', '?', '#'])) {
            return Err(ConnectError::Nodes);
        }
        let seeds = Seeds { scheme: scheme.to_owned(), login, nodes };
        for node in &seeds.nodes {
            seeds.node(node).map_err(ConnectError::Url)?;
        }
        Ok(Self::Cluster(seeds))
    }
}

impl Seeds {
    /// A node by the `host:port` that it or another one told.
    pub(crate) fn node(&self, address: &str) -> RedisResult<ConnectionInfo> {
        server(&format!("{}://{}{address}", self.scheme, self.login))
    }
}

fn server(url: &str) -> RedisResult<ConnectionInfo> {
    // Without it the kernel holds a request back until the previous answer is acknowledged.
    let tcp = TcpSettings::default().set_nodelay(true);
    Ok(url.into_connection_info()?.set_tcp_settings(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(url: &str) -> Option<Vec<String>> {
        match Address::parse(url) {
            Ok(Address::Cluster(seeds)) => Some(seeds.nodes.iter().map(|node| seeds.node(node).unwrap().addr().to_string()).collect()),
            _ => None,
        }
    }

    #[test]
    fn a_url_names_one_server_or_nodes_of_a_cluster() {
        assert!(matches!(Address::parse("redis://127.0.0.1:6379"), Ok(Address::Server(_))));
        assert_eq!(nodes("redis+cluster://a:1,b:2").unwrap(), ["a:1", "b:2"]);
        assert_eq!(nodes("redis+cluster://weir:s3c@ret@a:1/").unwrap(), ["a:1"]);
        let Ok(Address::Cluster(seeds)) = Address::parse("redis+cluster://weir:secret@a:1") else { panic!("a cluster") };
        let info = seeds.node("b:2").unwrap();
        assert_eq!((info.redis_settings().username(), info.redis_settings().password()), (Some("weir"), Some("secret")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["http+cluster://a:1", "redis+cluster://", "redis+cluster://a:1,,b:2", "redis+cluster://a:1/3", "a:1"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
