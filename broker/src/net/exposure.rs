//! Whether an endpoint can be reached from another machine.

use std::net::Ipv4Addr;

/// Why the broker does not listen: `setting` is the key in the configuration. Nothing is bound.
#[derive(Debug, thiserror::Error)]
pub enum ExposedError {
    #[error(
        "{setting} = {endpoint:?} can be reached from other machines, and there are no keys: make them with `ecs-cli keys \
         init`, or listen on 127.0.0.1; where everyone in the network may do everything, say so with --insecure, or \
         `insecure = true` under [broker]"
    )]
    Reachable { endpoint: String, setting: &'static str },
    /// libzmq has more transports than these, and tipc, for one, reaches other machines.
    #[error("{setting} = {endpoint:?} is neither ipc://PATH nor tcp://ADDRESS:PORT")]
    Transport { endpoint: String, setting: &'static str },
}

/// # Errors
/// Others can reach it, or it is not known whether they can: it is neither `ipc` nor a loopback address.
pub fn check_local(endpoint: &str, setting: &'static str) -> Result<(), ExposedError> {
    let owned = endpoint.to_owned();
    match endpoint.strip_prefix("tcp://") {
        Some(address) if is_loopback(address) => Ok(()),
        Some(_) => Err(ExposedError::Reachable { endpoint: owned, setting }),
        None if endpoint.starts_with("ipc://") => Ok(()),
        None => Err(ExposedError::Transport { endpoint: owned, setting }),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    matches!(host, "localhost" | "[::1]") || host.parse::<Ipv4Addr>().is_ok_and(|host| host.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_ipc_are_local() {
        for local in ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///run/x"] {
            check_local(local, "x").unwrap();
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
        for other in ["tipc://{5555,0,0}", "udp://*:1", "ipc:/run/x", "127.0.0.1:1", ""] {
            assert!(
                check_local(other, "x").is_err_and(|error| error.to_string().contains("neither ipc://PATH")),
                "{other}"
            );
        }
    }
}
