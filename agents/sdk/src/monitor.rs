//! Whether the broker lets a connection in.
//!
//! A handshake that fails is silent: nothing comes, and a send just waits. libzmq tells it to a socket
//! monitor alone.
//!
//! | what libzmq tells | what it means |
//! |---|---|
//! | `HANDSHAKE_FAILED_AUTH` | the broker does not know the key (any more) |
//! | `HANDSHAKE_FAILED_PROTOCOL` | one side has a key, the other not; or the answer was not made with the broker's key |
//! | `HANDSHAKE_FAILED_NO_DETAIL`, or `DISCONNECTED` after `CONNECTED` and no `HANDSHAKE_SUCCEEDED` | with a key: it is another broker's. Or the broker went away just then |

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

const EVENTS: [zmq::SocketEvent; 6] = [
    zmq::SocketEvent::CONNECTED,
    zmq::SocketEvent::DISCONNECTED,
    zmq::SocketEvent::HANDSHAKE_SUCCEEDED,
    zmq::SocketEvent::HANDSHAKE_FAILED_AUTH,
    zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL,
    zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL,
];

/// How the last handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// None has ended yet.
    Unknown,
    /// Connected, and not yet through.
    Begun,
    Succeeded,
    /// It may go better the next time.
    Broken,
    /// It will not: the broker said no, or speaks another mechanism.
    Refused,
}

/// Listens to what libzmq tells of one socket.
pub struct Monitor {
    events: zmq::Socket,
    last: Cell<Handshake>,
}

impl Monitor {
    /// To be called before the socket connects.
    pub fn new(context: &zmq::Context, socket: &zmq::Socket) -> zmq::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let endpoint = format!("inproc://ecs-monitor-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        socket.monitor(&endpoint, EVENTS.iter().map(|event| *event as i32).sum())?;
        let events = context.socket(zmq::PAIR)?;
        events.set_linger(0)?;
        events.connect(&endpoint)?;
        Ok(Self { events, last: Cell::new(Handshake::Unknown) })
    }

    /// Takes in what was told meanwhile, and says how the last handshake ended.
    pub fn handshake(&self) -> Handshake {
        while let Ok(parts) = self.events.recv_multipart(zmq::DONTWAIT) {
            // The event's number, in the order of bytes of this machine, then its value.
            let number = parts.first().and_then(|part| Some(u16::from_ne_bytes([*part.first()?, *part.get(1)?])));
            let event = EVENTS.into_iter().find(|event| Some(*event as u16) == number);
            event.into_iter().for_each(|event| self.note(event));
        }
        self.last.get()
    }

    /// To wait for what is told next.
    pub fn poll_item(&self) -> zmq::PollItem<'_> {
        self.events.as_poll_item(zmq::POLLIN)
    }

    fn note(&self, event: zmq::SocketEvent) {
        use zmq::SocketEvent as Event;
        let next = match (event, self.last.get()) {
            (Event::HANDSHAKE_FAILED_AUTH | Event::HANDSHAKE_FAILED_PROTOCOL, _) => Handshake::Refused,
            (Event::HANDSHAKE_SUCCEEDED, _) => Handshake::Succeeded,
            (_, Handshake::Refused) => Handshake::Refused, // libzmq tries again; so far it went no better
            (Event::CONNECTED, Handshake::Broken) => Handshake::Broken,
            (Event::CONNECTED, _) => Handshake::Begun,
            (Event::HANDSHAKE_FAILED_NO_DETAIL, _) | (Event::DISCONNECTED, Handshake::Begun) => Handshake::Broken,
            (_, last) => last,
        };
        self.last.set(next);
    }
}
