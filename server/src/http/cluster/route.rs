//! The routes below `/v1/cluster`, with the parts of the path that name something still as they were sent.

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum ClusterRoute<'a> {
    Whole,
    Nodes,
    Node(&'a str),
    NodeDrain(&'a str),
    PreferredDc,
    ShardLeader(&'a str),
    Moves,
    Rebalance,
    Recover,
    Snapshot,
}

impl<'a> ClusterRoute<'a> {
    /// The route of what follows `/v1/cluster` in a path.
    pub(in crate::http) fn of(rest: &'a str) -> Option<Self> {
        let mut parts = rest.split('/');
        let empty = parts.next()?;
        if !empty.is_empty() {
            return None;
        }
        let parts = (parts.next(), parts.next(), parts.next(), parts.next());
        Some(match parts {
            (Some("nodes"), None, None, None) => Self::Nodes,
            (Some("nodes"), Some(id), None, None) if !id.is_empty() => Self::Node(id),
            (Some("nodes"), Some(id), Some("drain"), None) if !id.is_empty() => Self::NodeDrain(id),
            (Some("preferred-dc"), None, None, None) => Self::PreferredDc,
            (Some("shards"), Some(shard), Some("leader"), None) if !shard.is_empty() => {
                Self::ShardLeader(shard)
            }
            (Some("moves"), None, None, None) => Self::Moves,
            (Some("rebalance"), None, None, None) => Self::Rebalance,
            (Some("recover"), None, None, None) => Self::Recover,
            (Some("snapshot"), None, None, None) => Self::Snapshot,
            _ => return None,
        })
    }

    /// The route's name in metrics.
    pub(in crate::http) fn name(self) -> &'static str {
        match self {
            Self::Whole => "cluster",
            Self::Nodes => "cluster_nodes",
            Self::Node(_) => "cluster_node",
            Self::NodeDrain(_) => "cluster_node_drain",
            Self::PreferredDc => "cluster_preferred_dc",
            Self::ShardLeader(_) => "cluster_shard_leader",
            Self::Moves => "cluster_moves",
            Self::Rebalance => "cluster_rebalance",
            Self::Recover => "cluster_recover",
            Self::Snapshot => "cluster_snapshot",
        }
    }

    /// The route's methods, as `Allow` tells them.
    pub(in crate::http) fn allow(self) -> &'static str {
        match self {
            Self::Whole | Self::Moves => "GET, HEAD",
            Self::Node(_) => "DELETE",
            Self::Nodes
            | Self::NodeDrain(_)
            | Self::PreferredDc
            | Self::ShardLeader(_)
            | Self::Rebalance
            | Self::Recover
            | Self::Snapshot => "POST",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_cluster_name_routes() {
        let cases = [
            ("/nodes", ClusterRoute::Nodes),
            ("/nodes/5", ClusterRoute::Node("5")),
            ("/nodes/5/drain", ClusterRoute::NodeDrain("5")),
            ("/preferred-dc", ClusterRoute::PreferredDc),
            ("/shards/3/leader", ClusterRoute::ShardLeader("3")),
            ("/moves", ClusterRoute::Moves),
            ("/rebalance", ClusterRoute::Rebalance),
            ("/recover", ClusterRoute::Recover),
            ("/snapshot", ClusterRoute::Snapshot),
        ];
        for (rest, route) in cases {
            assert_eq!(ClusterRoute::of(rest), Some(route), "{rest}");
        }
        for rest in [
            "",
            "/",
            "s",
            "nodes",
            "/nodes/",
            "/nodes//drain",
            "/nodes/5/",
            "/nodes/5/undrain",
            "/nodes/5/drain/x",
            "/shards",
            "/shards/3",
            "/shards//leader",
            "/moves/1",
        ] {
            assert_eq!(ClusterRoute::of(rest), None, "{rest}");
        }
    }
}
