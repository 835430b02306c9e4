//! The protocol under a model checker: loom tries every order of the steps of two or three threads, and
//! every value that the memory orderings let a load see.
//!
//! | module | what is in it |
//! |---|---|
//! | `images` | an image from its packets to readers; late packets; readers that are overtaken, hold, join |
//! | `places` | places that change hands |
//! | `runs` | runs that begin while packets are placed; refusals |
//! | `waits` | sleeping and waking |
//! | `deaths` | an owner abandoned at each crash point, and the next one |
//! | `weaken` | each ordering weakened in turn: some model must fail |
//!
//! The real code of `src` runs; only its atomics are loom's, and its limits are small. What loom cannot
//! show: a load that sees a store which comes later (loom runs stores in order), and more preemptions
//! than the bound. Plain memory is watched beside: two who use it unordered fail the model.
//!
//! ```text
//! cargo test --release -p ecs-shm-buffer --features model --test orderings                  # in CI
//! LOOM_MAX_PREEMPTIONS=3 cargo test … --test orderings                                      # more
//! ECS_MODEL_WEAKEN_ALL=1 cargo test … --test orderings -- every_weakened --nocapture        # the table
//! ```

mod deaths;
mod images;
mod places;
mod runs;
mod scene;
mod waits;
mod weaken;
