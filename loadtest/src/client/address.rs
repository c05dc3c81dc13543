//! Where a node listens. Invariant: an address has a host and a port; what is wrong with one is said before anything is sent.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::failure::Failure;

/// `host:port`, with or without `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The address as it goes into a `Host` header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The socket's address.
    ///
    /// # Errors
    /// [`Failure::Connect`]: the host's name is not known.
    pub fn resolve(&self) -> Result<SocketAddr, Failure> {
        let found = self.0.to_socket_addrs().map(|mut found| found.next());
        match found {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(Failure::Connect(format!("{self}: the name has no address"))),
            Err(error) => Err(Failure::Connect(format!(
                "{self}: the name is not known: {error}"
            ))),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        if bare.starts_with("https://") {
            return Err("https is not spoken by this version; give host:port".to_owned());
        }
        let authority: hyper::http::uri::Authority = bare
            .parse()
            .map_err(|_| format!("{text:?} is not host:port"))?;
        if authority.port_u16().is_none() || authority.host().is_empty() {
            return Err(format!(
                "{text:?} has no port: give host:port, such as 127.0.0.1:7400"
            ));
        }
        Ok(Self(bare.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_a_scheme() {
        let address = |text: &str| text.parse::<Address>().map(|address| address.0);
        assert_eq!(address("http://node:1/"), Ok("node:1".to_owned()));
        assert_eq!(address("[::1]:7400"), Ok("[::1]:7400".to_owned()));
        for wrong in [
            "",
            "node",
            "https://node:1",
            "node:x",
            "a b:1",
            ":7400",
            "n:1/v1",
        ] {
            assert!(address(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_named() {
        let address: Address = "nowhere.invalid:7400".parse().unwrap();
        let failure = address.resolve().unwrap_err();
        assert!(failure.to_string().contains("nowhere.invalid:7400"));
        assert_eq!(failure.exit_code(), 3);
    }
}
