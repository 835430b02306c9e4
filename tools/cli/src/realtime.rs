//! Real-time priority for those threads of a beamline's processes that messages pass ([`ecs_sdk::realtime`]).

use ecs_schemas::beamline::Beamline;
use ecs_sdk::realtime::Realtime;
use std::io;

/// For the broker, whose loop runs on the calling thread.
pub fn of_broker(beamline: &Beamline) -> Option<Realtime> {
    kept(beamline, Realtime::keep_with_caller)
}

/// For an agent, whose images are the calling thread's.
pub fn of_agent(beamline: &Beamline) -> Option<Realtime> {
    kept(beamline, Realtime::keep)
}

fn kept(beamline: &Beamline, keep: fn() -> io::Result<Realtime>) -> Option<Realtime> {
    let kept = beamline.realtime.then(keep)?;
    let told = kept.inspect_err(|error| {
        tracing::warn!(
            "beamline.realtime: this process may not have real-time priority ({error}); start it as root, or with LimitRTPRIO=1 in \
             its service, or raise `ulimit -r`"
        );
    });
    told.ok()
}
