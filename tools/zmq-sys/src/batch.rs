//! Of ours: the sizes of a connection's batches, which are options of libzmq's drafts. The build has these.

use libc::{c_int, c_void};

const ZMQ_IN_BATCH_SIZE: c_int = 101;
const ZMQ_OUT_BATCH_SIZE: c_int = 102;

/// Sets how many bytes a socket takes from the system at one time, and gives to it, for connections that begin afterwards: 8192
/// each by default. 0 if it could; a libzmq without its drafts cannot.
///
/// # Safety
/// `socket` is one of `zmq_socket`, open, and not used by another thread meanwhile.
pub unsafe fn set_batch_bytes(socket: *mut c_void, taken: c_int, given: c_int) -> c_int {
    let mut failed = 0;
    for (option, bytes) in [(ZMQ_IN_BATCH_SIZE, taken), (ZMQ_OUT_BATCH_SIZE, given)] {
        let value: *const c_int = &bytes;
        // SAFETY: the socket by this function's own contract; an int that lives, and its size.
        failed |= unsafe { crate::ffi::zmq_setsockopt(socket, option, value.cast(), std::mem::size_of_val(&bytes)) };
    }
    failed
}
