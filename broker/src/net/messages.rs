//! Messages over the ROUTER: one in two parts, or several in a bundle (`schemas::bundle`).

use super::NetError;
use crate::core::{Outgoing, Parts};
use bytes::Bytes;
use ecs_schemas::bundle::{Bundle, is_bundle, read_bundle};
use smallvec::{SmallVec, smallvec};

/// Parts as they came, the identity first where the socket is a ROUTER.
pub type Frames = SmallVec<[zmq::Message; 3]>;

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

/// The messages in what came, and whether they came in a bundle. What is broken is one that nobody can read.
pub fn messages(frames: impl Iterator<Item = zmq::Message>, mut take: impl FnMut(Parts, bool)) {
    let parts: Parts = frames.map(|frame| Bytes::from_owner(Frame(frame))).collect();
    let messages = match &parts[..] {
        [part] if is_bundle(part) => read_bundle(part).ok(),
        _ => None,
    };
    match messages {
        Some(messages) => messages.into_iter().for_each(|[header, body]| {
            take(smallvec![parts[0].slice_ref(header), parts[0].slice_ref(body)], true);
        }),
        None => take(parts, false),
    }
}

/// Sends the first of `messages`, all to one session, and as many as go with it; returns how many these were. The bodies of those
/// may be taken.
pub fn send(router: &zmq::Socket, messages: &mut [Outgoing]) -> (usize, Sent) {
    let session = messages[0].session.clone();
    let bundled = |message: &&Outgoing| message.session.takes_bundles();
    let room = messages.iter().take_while(bundled).map(|message| Bundle::room_of(&message.body)).sum();
    let mut bundle = Bundle::with_capacity(room);
    let together =
        messages.iter().take_while(bundled).take_while(|message| bundle.push(&message.header, &message.body));
    match together.count() {
        0 => {
            let Outgoing { header, body, .. } = &mut messages[0];
            let body =
                if body.len() > COPIED_BYTES_MAX { std::mem::take(body).into() } else { zmq::Message::from(&body[..]) };
            (1, send_parts(router, [session.bytes().into(), header.encode().into(), body]))
        }
        count => (count, send_parts(router, [session.bytes().into(), bundle.finish().into()])),
    }
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
