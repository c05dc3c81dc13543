//! What operators send, and what is wrong with it whatever the cluster is like.

use serde::Deserialize;

use crate::http::json::Whole;
use crate::http::problem::Problem;

/// A node's number.
pub(super) type NodeNumber = Whole<1, { u64::MAX }>;

/// Longest host name in bytes (RFC 1035), with room for brackets and a port.
const ADDRESS_BYTES_MAX: usize = 255 + 8;

/// The node to add.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddBody {
    pub(super) node_id: NodeNumber,
    pub(super) address: String,
    pub(super) dc: String,
    pub(super) learner: Option<bool>,
}

/// Whether a node is to lead nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainBody {
    pub(super) drain: bool,
}

/// A data centre.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DcBody {
    pub(super) dc: String,
}

/// The data centre that goes on, and whether also where a later life of the cluster was heard of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverBody {
    pub(super) dc: String,
    pub(super) force: Option<bool>,
}

/// Who is to lead.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaderBody {
    pub(super) node_id: NodeNumber,
}

/// Checks that an address is `host:port`.
///
/// # Errors
/// 400 naming it.
pub(super) fn check_address(address: &str) -> Result<(), Problem> {
    let parts = address.rsplit_once(':');
    let well_formed = parts.is_some_and(|(host, port)| {
        let host_fits =
            !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
        let bracketed = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        host_fits && bracketed && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if well_formed && address.len() <= ADDRESS_BYTES_MAX {
        return Ok(());
    }
    let what = format!("{address:?} is not the host:port where the node listens for its peers");
    Err(Problem::invalid("address", &what))
}

/// Checks that the name of a data centre is one.
///
/// # Errors
/// 400 naming it.
pub(super) fn check_dc(dc: &str) -> Result<(), Problem> {
    qiang_engine::ids::check_id(dc).map_err(|error| Problem::invalid("dc", &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::{Object, parse};
    use serde_json::{Value, json};

    fn field(body: &Value) -> String {
        let wrong = parse::<Object<AddBody>>(body.to_string().as_bytes()).unwrap_err();
        wrong.field().to_owned()
    }

    #[test]
    fn each_wrong_member_of_a_node_to_add_is_named() {
        let whole = json!({"node_id": 5, "address": "10.0.0.5:7500", "dc": "a", "learner": true});
        assert!(parse::<Object<AddBody>>(whole.to_string().as_bytes()).is_ok());
        for (name, value) in [
            ("node_id", json!(0)),
            ("node_id", json!("5")),
            ("address", json!(7)),
            ("dc", json!(null)),
            ("learner", json!("yes")),
            ("colour", json!("red")),
        ] {
            let mut body = whole.clone();
            body[name] = value;
            assert_eq!(field(&body), name, "{body}");
        }
        for name in ["node_id", "address", "dc"] {
            let mut body = whole.clone();
            body.as_object_mut().unwrap().remove(name);
            assert_eq!(field(&body), name, "{body}");
        }
    }

    #[test]
    fn an_address_is_host_and_port() {
        for right in ["10.0.0.5:7500", "node-5.shop:7500", "[::1]:7500"] {
            assert!(check_address(right).is_ok(), "{right}");
        }
        let long = format!("{}:1", "x".repeat(300));
        for wrong in [
            "",
            "node",
            "node:",
            ":7500",
            "node:0",
            "node:70000",
            "::1:7500",
            "a b:1",
            &long,
        ] {
            assert_eq!(
                check_address(wrong).unwrap_err().field(),
                "address",
                "{wrong}"
            );
        }
    }
}
