//! The whole system, as its users meet it: `ecs-cli up` and its processes, packets over UDP, files read
//! by h5py.
//!
//! | file | what it shows |
//! |---|---|
//! | `real_packets` | recorded packets of a real detector become the images that they must become |
//! | `accounting` | sent = delivered + lost by cause, through every layer; strangers, jumps, restarts, uninvited images, records |
//! | `packet_loss` | every lost packet is marked, filled and counted; the sums are exact |
//! | `detectors` | every detector through the whole system, every pixel of the file; one that no code knows |
//! | `conversion` | pixels with gains become what they must, bit by bit; pedestals are taken and applied; masks |
//! | `faults` | every detector under all faults and kills at once: each pixel right, or marked |
//! | `rates` | half, once and twice what the machine carries: sent = delivered + lost by cause, to the packet |
//! | `runs` | where a run begins and ends, with slow, late, stray and silent packets |
//! | `kill` | any process may die at any time: the others live, the file is right, the job ends |
//! | `kills` | the control plane under random kills, stops and full disks: what was acknowledged stays |
//! | `refusals` | what cannot work is refused with its reason, and leaves nothing behind |
//! | `jobs` | queue, cancel, same key, progress, hold and move, what follows a job, searching |
//! | `control` | subsystems, values, events, calls, alarms and traces at a terminal |
//! | `slow_writer` | a writer that stalls costs the newest images, by count |
//! | `garbage` | garbage on every port costs nobody but its sender |
//! | `host` | processes stay on the cores that they are given; the log tells of huge pages |
//! | `leftovers` | however `up` ends: no process, no port, no shared memory is left |
//! | `telemetry` | the README's Python script, and `topic echo` |
//! | `security` | keys and roles: who may submit, who may only look, who is not let in; no secret in any log |
//! | `topics` | topics listed, measured and published at a terminal |
//! | `completion` | a real bash completes the names of a beamline; zsh and fish by what their functions ask |
//! | `command_line` | help, JSON, completions, configuration errors |
//! | `architecture` | which crate may depend on which |

#![allow(clippy::unwrap_used, reason = "every function here is a test or serves one")]

mod accounting;
mod architecture;
mod command_line;
mod completion;
mod control;
mod conversion;
mod detectors;
mod faults;
mod garbage;
mod host;
mod jobs;
mod kill;
mod kills;
mod leftovers;
mod packet_loss;
mod rates;
mod real_packets;
mod refusals;
mod runs;
mod security;
mod slow_writer;
mod support;
mod telemetry;
mod topics;
