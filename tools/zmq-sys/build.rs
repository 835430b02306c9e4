//! Builds libzmq, static, with CURVE by the TweetNaCl that is in its source, and with its drafts: of these, the sizes of a
//! connection's batches are used (`set_batch_bytes`).
//!
//! The published build script has no CURVE: `zeromq-src` offers it with libsodium only, whose crate brings
//! an HTTP client, two archive readers and a `configure` of its own. TweetNaCl is one file of 1,000 lines.

use std::{env, path::PathBuf};

/// What libzmq's own build defines for this choice. `getrandom` is thread-safe, and needs no open file. Its threads have names, by
/// which they are found (`realtime` of the SDK, and a person's `top -H`).
const DEFINES: [&str; 4] = ["ZMQ_HAVE_CURVE", "ZMQ_USE_TWEETNACL", "ZMQ_HAVE_GETRANDOM", "ZMQ_HAVE_PTHREAD_SETNAME_2"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET").expect("cargo sets it");
    // `zeromq-src` takes no definitions of ours, but its compiler takes flags from the environment; this
    // variable goes before the others by which a user may set them, so it carries theirs.
    let name = format!("CXXFLAGS_{target}");
    let users = [name.clone(), format!("CXXFLAGS_{}", target.replace('-', "_")), "CXXFLAGS".to_owned()];
    let users = users.iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    let defines = DEFINES.map(|define| format!("-D{define}=1")).join(" ");
    // `-w`: cargo hides the warnings of a published crate's C++, and shows those of one that is here.
    env::set_var(&name, format!("{users} {defines} -w"));
    zeromq_src::Build::new().enable_draft(true).build();

    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let source = out.join("source/src"); // `zeromq-src` has put a copy there
    let mut tweetnacl = cc::Build::new();
    for define in DEFINES {
        tweetnacl.define(define, "1");
    }
    // Its arithmetic shifts negative numbers: well defined with this flag only.
    tweetnacl.flag_if_supported("-fwrapv").warnings(false).include(&out).include(&source);
    tweetnacl.file(source.join("tweetnacl.c")).compile("tweetnacl");
}
