//! Whether an endpoint can be reached from another machine.

use std::net::Ipv4Addr;

/// Why the broker does not listen. Nothing is bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "{setting} = {endpoint:?} can be reached from other machines, and there are no keys: make them with `ecs-cli keys \
     init`, or listen on 127.0.0.1; where everyone in the network may do everything, say so with --insecure, or \
     `insecure = true` under [broker]"
)]
pub struct ExposedError {
    pub endpoint: String,
    /// The key in the configuration.
    pub setting: &'static str,
}

/// # Errors
/// Others can reach it: it is neither `ipc` nor a loopback address.
pub fn check_local(endpoint: &str, setting: &'static str) -> Result<(), ExposedError> {
    if is_local(endpoint) { Ok(()) } else { Err(ExposedError { endpoint: endpoint.to_owned(), setting }) }
}

fn is_local(endpoint: &str) -> bool {
    let Some(address) = endpoint.strip_prefix("tcp://") else {
        return true; // ipc; what is neither is refused by bind
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    matches!(host, "localhost" | "[::1]") || host.parse::<Ipv4Addr>().is_ok_and(|host| host.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_ipc_are_local() {
        for local in ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///run/x"] {
            assert!(is_local(local), "{local}");
        }
        let others = [
            "tcp://0.0.0.0:1",
            "tcp://10.0.0.1:1",
            "tcp://*:1",
            "tcp://eth0:1",
            "tcp://[::]:1",
            "tcp://localhost.evil:1",
            "tcp://127.0.0.1.evil:1",
            "tcp://128.0.0.1:1",
        ];
        for other in others {
            assert!(check_local(other, "x").is_err_and(|error| error.to_string().contains("keys init")), "{other}");
        }
    }
}
