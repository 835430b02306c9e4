//! Messages over the ROUTER: one in two parts, or several in a bundle (`schemas::bundle`).

use super::NetError;
use crate::core::{Outgoing, Parts, Session};
use bytes::Bytes;
use ecs_schemas::{
    bundle::{Bundle, is_bundle, read_bundle},
    envelope::{Header, KIND_PROBE},
};
use smallvec::{SmallVec, smallvec};

/// Parts as they came, the identity first where the socket is a ROUTER.
pub type Frames = SmallVec<[zmq::Message; 3]>;

/// An encoded map without entries.
const EMPTY_MAP: &[u8] = &[0x80];
/// A longer body is handed over, not copied.
const COPIED_BYTES_MAX: usize = 4096;

/// What became of messages that were sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Yes,
    /// Too many wait for this peer already.
    NotRead,
    /// There is no such connection (any more).
    Unreachable,
}

/// The parts of what waits, if anything does. Those beyond `parts_max` are dropped.
pub fn receive(socket: &zmq::Socket, parts_max: usize) -> Result<Option<Frames>, NetError> {
    let mut frames = Frames::new();
    loop {
        let frame = match socket.recv_msg(zmq::DONTWAIT) {
            Ok(frame) => frame,
            Err(zmq::Error::EINTR) => continue,
            Err(zmq::Error::EAGAIN) => return Ok(None), // parts come all together or not at all
            Err(error) => return Err(error.into()),
        };
        let has_more = frame.get_more();
        if frames.len() < parts_max {
            frames.push(frame);
        }
        if !has_more {
            return Ok(Some(frames));
        }
    }
}

/// The messages in what came; true if they came in a bundle. What is broken is one that nobody can read.
pub fn messages(frames: impl Iterator<Item = zmq::Message>, mut take: impl FnMut(Parts)) -> bool {
    let parts: Parts = frames.map(|frame| Bytes::from_owner(Frame(frame))).collect();
    let messages = match &parts[..] {
        [part] if is_bundle(part) => read_bundle(part).ok(),
        _ => None,
    };
    let is_bundle = messages.is_some();
    match messages {
        Some(messages) => messages.into_iter().for_each(|[header, body]| {
            take(smallvec![parts[0].slice_ref(header), parts[0].slice_ref(body)]);
        }),
        None => take(parts),
    }
    is_bundle
}

/// Sends the first of `messages`, all to one session, and as many as go with it; returns how many these were. The bodies of those
/// may be taken.
pub fn send(router: &zmq::Socket, messages: &mut [Outgoing], takes_bundles: bool) -> (usize, Sent) {
    let session = messages[0].session.clone();
    if takes_bundles {
        let mut bundle = Bundle::with_capacity(messages.iter().map(|message| Bundle::room_of(&message.body)).sum());
        let count = messages.iter().take_while(|message| bundle.push(&message.header, &message.body)).count();
        if count > 0 {
            return (count, send_parts(router, [session.bytes().into(), bundle.finish().into()]));
        }
    }
    let Outgoing { header, body, .. } = &mut messages[0];
    let body = if body.len() > COPIED_BYTES_MAX { std::mem::take(body).into() } else { zmq::Message::from(&body[..]) };
    (1, send_parts(router, [session.bytes().into(), header.encode().into(), body]))
}

/// Sends a notice that whoever gets it ignores.
pub fn probe(router: &zmq::Socket, session: &Session) -> Sent {
    let header = Header::notice(KIND_PROBE).encode();
    send_parts(router, [session.bytes().into(), header.into(), EMPTY_MAP.into()])
}

/// Never blocks (rule N1).
fn send_parts<const N: usize>(router: &zmq::Socket, parts: [zmq::Message; N]) -> Sent {
    match router.send_multipart(parts, zmq::DONTWAIT) {
        Ok(()) => Sent::Yes,
        Err(zmq::Error::EAGAIN) => Sent::NotRead,
        Err(_) => Sent::Unreachable,
    }
}

struct Frame(zmq::Message);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
