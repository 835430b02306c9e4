//! Who may send to the detector's ports: an address, and where it matters a port.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

/// Senders that a beamline may name: each packet's is looked for among them, and no detector has more ports.
pub const SENDERS_MAX: usize = 1024;

/// One sender that is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedSender {
    pub address: Ipv4Addr,
    /// Source port; without it any port of the address.
    pub port: Option<u16>,
}

impl AllowedSender {
    /// Whether this is the one that sent from `source`.
    pub fn is(&self, source: SocketAddrV4) -> bool {
        self.address == *source.ip() && self.port.is_none_or(|port| port == source.port())
    }
}

impl FromStr for AllowedSender {
    type Err = std::net::AddrParseError;

    /// Reads `10.0.0.2` or `10.0.0.2:5000`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<SocketAddrV4>() {
            Ok(source) => Ok(Self { address: *source.ip(), port: Some(source.port()) }),
            Err(_) => Ok(Self { address: text.parse()?, port: None }),
        }
    }
}

impl fmt::Display for AllowedSender {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.address)?;
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_is_told_by_its_address_and_by_its_port_where_one_is_named() {
        let source = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        for (allowed, from, is_it) in [
            ("10.0.0.2", "10.0.0.2:1", true),
            ("10.0.0.2", "10.0.0.3:1", false),
            ("10.0.0.2:7", "10.0.0.2:7", true),
            ("10.0.0.2:7", "10.0.0.2:8", false),
            ("10.0.0.2:7", "10.0.0.3:7", false),
        ] {
            let sender: AllowedSender = allowed.parse().unwrap();
            assert_eq!((sender.is(source(from)), sender.to_string().as_str()), (is_it, allowed));
        }
        for wrong in ["", "x", "10.0.0", "10.0.0.2:", "10.0.0.2:65536", "::1", "10.0.0.0/8"] {
            assert!(wrong.parse::<AllowedSender>().is_err(), "{wrong}");
        }
    }
}
