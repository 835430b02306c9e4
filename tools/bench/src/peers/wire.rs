//! A connection with a buffer each way: what is to be sent goes out when there is nothing left to handle.

use anyhow::{Context, bail};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A peer that says nothing for so long has lost what was asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// What one read takes at most, as long as frames are smaller.
const INPUT_BYTES: usize = 256 << 10;
/// A frame that is not whole by then is not one: both protocols bound theirs to 1 MiB and below, unless told otherwise.
const INPUT_BYTES_MAX: usize = 4 << 20;

pub struct Wire {
    stream: TcpStream,
    pub input: Input,
    /// What the next read sends first.
    pub output: Vec<u8>,
}

/// What was read and is not handled yet.
pub struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    /// # Errors
    /// The peer does not listen.
    pub fn connect(port: u16) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot connect to port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, input: Input { bytes: vec![0; INPUT_BYTES], start: 0, end: 0 }, output: Vec::new() })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends what waits, then reads once; waits for it where nothing is there.
    ///
    /// # Errors
    /// The connection has ended, or nothing came.
    pub fn exchange(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        let read = self.stream.read(self.input.room()?).context("nothing came from the peer")?;
        if read == 0 {
            bail!("the peer has closed the connection");
        }
        self.input.end += read;
        Ok(())
    }

    /// # Errors
    /// The connection has ended, or the peer does not read.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.output).context("cannot send to the peer")?;
        self.output.clear();
        Ok(())
    }
}

impl Input {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// So many bytes are handled.
    pub fn handled(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "more was handled than was read");
    }

    /// Where the next read goes: behind what is not handled yet, which is moved to the front.
    fn room(&mut self) -> anyhow::Result<&mut [u8]> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.bytes.len() {
            if self.end >= INPUT_BYTES_MAX {
                bail!("a frame from the peer is larger than {INPUT_BYTES_MAX} bytes");
            }
            self.bytes.resize(2 * self.end, 0);
        }
        Ok(&mut self.bytes[self.end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// A peer sends twice the buffer in pieces: nothing is lost or out of order, and what waited was sent first.
    #[test]
    fn what_is_not_handled_is_kept_and_the_buffer_grows() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent: Vec<u8> = (0..2 * INPUT_BYTES).map(|byte| (byte % 251) as u8).collect();
        let expected = sent.clone();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"ask");
            stream.write_all(&sent).unwrap();
        });
        let mut wire = Wire::connect(port).unwrap();
        wire.output.extend(b"ask");
        let mut taken: Vec<u8> = Vec::new();
        wire.exchange().unwrap();
        taken.extend(&wire.input.bytes()[..1]);
        wire.input.handled(1);
        while taken.len() + wire.input.bytes().len() < expected.len() {
            wire.exchange().unwrap();
        }
        taken.extend(wire.input.bytes());
        assert_eq!(taken, expected);
        peer.join().unwrap();
        assert!(wire.exchange().unwrap_err().to_string().contains("closed"));
    }
}
