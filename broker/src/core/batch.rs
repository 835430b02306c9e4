//! One batch, from its inputs to what leaves: stored all together, or each input alone where the disk fails.
//!
//! ```text
//! step each ─▶ ONE save ─┬─ ok ──────▶ all that the steps returned
//!                        └─ failed ──▶ undo; each input again, alone: only those that need the disk are refused (store_failed)
//! ```

use super::{Changes, Core, Input, Outgoing, Publication};
use ecs_schemas::{
    envelope::{Header, Request},
    registry::{Heartbeat, Leave, Register},
};
use std::fmt::Display;

/// What leaves after a batch.
#[derive(Debug, Default)]
pub struct Outputs {
    pub messages: Vec<Outgoing>,
    pub publications: Vec<Publication>,
}

/// What a disk that failed leaves over: the inputs that can be handled again (rule C5), and why.
struct Undone<'a> {
    again: Vec<&'a Input>,
    why: String,
}

impl Core {
    /// Handles what has come in. `save` puts changes on the disk, all or none; it is called even where there are none.
    pub fn batch<E: Display>(
        &mut self,
        now_ns: u64,
        inputs: &[Input],
        mut save: impl FnMut(&Changes) -> Result<(), E>,
    ) -> Outputs {
        let mut outputs = Outputs::default();
        let Err(undone) = self.attempt(now_ns, inputs, &mut save, &mut outputs) else { return outputs };
        if let [_] = inputs {
            self.settle_alone(now_ns, undone, &mut save, &mut outputs);
            return outputs;
        }
        for input in undone.again {
            if let Err(undone) = self.attempt(now_ns, std::slice::from_ref(input), &mut save, &mut outputs) {
                self.settle_alone(now_ns, undone, &mut save, &mut outputs);
            }
        }
        outputs
    }

    /// Decides and saves; what may leave is added to the outputs (rule C1).
    fn attempt<'a, E: Display>(
        &mut self,
        now_ns: u64,
        inputs: &'a [Input],
        save: &mut impl FnMut(&Changes) -> Result<(), E>,
        outputs: &mut Outputs,
    ) -> Result<(), Undone<'a>> {
        let (mut held, mut again) = (Vec::new(), Vec::new());
        for input in inputs {
            if !self.take(now_ns, input, &mut held) {
                again.push(input);
            }
        }
        let saved = save(&self.changes());
        match saved {
            Ok(()) => outputs.messages.append(&mut held),
            Err(_) => self.rollback(),
        }
        let (publications, updates) = self.commit(now_ns);
        outputs.publications.extend(publications);
        outputs.messages.append(&mut self.free);
        outputs.messages.extend(updates);
        saved.map_err(|error| Undone { again, why: error.to_string() })
    }

    /// What becomes of a single input that the disk did not take. What was done once has its answer, or will have it.
    fn settle_alone<E: Display>(
        &mut self,
        now_ns: u64,
        undone: Undone<'_>,
        save: &mut impl FnMut(&Changes) -> Result<(), E>,
        outputs: &mut Outputs,
    ) {
        let [input] = undone.again[..] else { return };
        if may_put_off(input) {
            self.put_off_jobs(true);
            let attempted = self.attempt(now_ns, std::slice::from_ref(input), save, outputs);
            self.put_off_jobs(false);
            if attempted.is_ok() {
                return;
            }
        }
        outputs.messages.extend(self.refuse(input, &undone.why));
    }
}

/// Rule C6: whether what it does to jobs may happen at the next tick instead.
fn may_put_off(input: &Input) -> bool {
    let Input::Message { parts, .. } = input else { return false };
    let header = parts.first().and_then(|bytes| Header::decode(bytes).ok());
    header.is_some_and(|header| [Register::KIND, Heartbeat::KIND, Leave::KIND].contains(&header.kind.as_str()))
}
