//! The same atomics inside a model: every load, store and fence goes to loom, which tries every order of
//! them, and every older value that the orderings allow a load to see.
//!
//! A ring in memory cannot be made of loom's atomics: they are larger, and not valid as zeros. So a word
//! here is its address, and a table leads from there to loom's. Words are announced ([`announce`]) before
//! the model's threads begin, since loom wants that whoever uses one comes after its making.
//!
//! loom 0.7 keeps only the last access to an atomic to find what depends on it: where one thread loads a word
//! and then exchanges it, an earlier load by another thread is forgotten, and the order between them is never
//! turned round. So each access is preceded by an exchange that fails, on a second atomic beside the word: to
//! loom these depend on each other all, and they do nothing to memory. The same before each SeqCst fence: to loom
//! a fence is part of what its thread did before, so nobody would come in between. Without the two, the models
//! miss faults that they find so.
//!
//! | environment | |
//! |---|---|
//! | `ECS_MODEL_SITES=file` | each place (file:line:column) that asks for more than Relaxed is written there, with what |
//! | `ECS_MODEL_WEAKEN=place=ordering` | that place gets this ordering instead; a fence of Relaxed is none |

use super::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::{
    cell::UnsafeCell,
    sync::{Condvar, Mutex, atomic},
};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    panic::Location,
    rc::Rc,
    sync::{LazyLock, atomic::Ordering},
    time::Duration,
};

thread_local! {
    /// loom runs all threads of a model on one.
    static WORDS: RefCell<HashMap<usize, Rc<Word>>> = RefCell::default();
    /// Plain memory beside the words: loom sees two who use it at one time.
    static PLAIN: RefCell<HashMap<usize, Rc<UnsafeCell<()>>>> = RefCell::default();
    /// What fences have instead of a word.
    static FENCES: RefCell<Option<Rc<atomic::AtomicU64>>> = const { RefCell::new(None) };
    static SLEEPERS: RefCell<Option<Rc<Sleepers>>> = RefCell::default();
    static SITES: RefCell<BTreeSet<String>> = RefCell::default();
}

/// loom's word, and the one beside it that is never anything but 0.
pub struct Word {
    value: atomic::AtomicU64,
    turn: atomic::AtomicU64,
}

/// The kernel's side of a futex, one for all words.
#[derive(Default)]
struct Sleepers {
    lock: Mutex<()>,
    woken: Condvar,
}

static WEAKEN: LazyLock<Option<(String, Ordering)>> = LazyLock::new(|| {
    let text = std::env::var("ECS_MODEL_WEAKEN").ok()?;
    let (site, ordering) = text.split_once('=')?;
    let ordering = [Relaxed, Acquire, Release, AcqRel].into_iter().find(|known| format!("{known:?}") == ordering)?;
    Some((site.to_owned(), ordering))
});

/// A word of 64 bits, known by its address.
#[repr(transparent)]
pub struct AtomicU64(std::cell::UnsafeCell<u64>);
/// A word of 32 bits, known by its address.
#[repr(transparent)]
pub struct AtomicU32(std::cell::UnsafeCell<u32>);

// SAFETY: the cells are never used, only their addresses.
unsafe impl Sync for AtomicU64 {}
// SAFETY: as above.
unsafe impl Sync for AtomicU32 {}

/// Begins an execution: no word is known.
pub fn begin() {
    WORDS.take();
    PLAIN.take();
    FENCES.set(Some(Rc::new(atomic::AtomicU64::new(0))));
    SLEEPERS.set(Some(Rc::default()));
}

/// Makes loom's atomic for a word, of value 0. By the model's first thread, before the others are there.
pub fn announce<T>(word: &T) {
    let address = std::ptr::from_ref(word) as usize;
    let word = Word { value: atomic::AtomicU64::new(0), turn: atomic::AtomicU64::new(0) };
    WORDS.with_borrow_mut(|words| _ = words.insert(address, Rc::new(word)));
}

/// Makes loom's cell for plain memory.
pub fn announce_plain(address: usize) {
    PLAIN.with_borrow_mut(|cells| _ = cells.insert(address, Rc::new(UnsafeCell::new(()))));
}

/// A plain read or write of the memory: it fails the model if it is not ordered with the others.
pub fn touch_plain(address: usize, writes: bool) {
    let cell = PLAIN.with_borrow(|cells| Rc::clone(&cells[&address]));
    if writes { cell.with_mut(|_| ()) } else { cell.with(|_| ()) }
}

fn word(address: usize) -> Rc<Word> {
    let word = WORDS.with_borrow(|words| Rc::clone(words.get(&address).expect("a word that was not announced")));
    let _ = word.turn.compare_exchange(1, 1, Relaxed, Relaxed); // see the module header
    word
}

/// The ordering of this place: what it asks for, or what the environment says instead.
fn ordering_at(place: &Location<'_>, what: &str, asked: Ordering) -> Ordering {
    if asked == Relaxed {
        return asked;
    }
    let site = format!("{}:{}:{}", place.file(), place.line(), place.column());
    let weakened = WEAKEN.as_ref().filter(|(weak, _)| *weak == site).map(|&(_, ordering)| ordering);
    SITES.with_borrow_mut(|sites| {
        let is_new = sites.insert(format!("{site} {what} {asked:?}"));
        if is_new && let Some(path) = std::env::var_os("ECS_MODEL_SITES") {
            let text: String = sites.iter().map(|site| format!("{site}\n")).collect();
            std::fs::write(path, text).expect("the file of sites can be written");
        }
    });
    weakened.unwrap_or(asked)
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        impl $name {
            pub(super) fn word(&self) -> Rc<Word> {
                word(std::ptr::from_ref(self) as usize)
            }

            #[track_caller]
            pub fn load(&self, ordering: Ordering) -> $int {
                self.word().value.load(ordering_at(Location::caller(), "load", ordering)) as $int
            }

            #[track_caller]
            pub fn store(&self, value: $int, ordering: Ordering) {
                self.word().value.store(u64::from(value), ordering_at(Location::caller(), "store", ordering));
            }

            #[track_caller]
            pub fn swap(&self, value: $int, ordering: Ordering) -> $int {
                self.word().value.swap(u64::from(value), ordering_at(Location::caller(), "rmw", ordering)) as $int
            }

            #[track_caller]
            pub fn fetch_add(&self, value: $int, ordering: Ordering) -> $int {
                self.word().value.fetch_add(u64::from(value), ordering_at(Location::caller(), "rmw", ordering)) as $int
            }
        }
    };
}
atomic!(AtomicU64, u64);
atomic!(AtomicU32, u32);

impl AtomicU64 {
    #[track_caller]
    pub fn fetch_or(&self, value: u64, ordering: Ordering) -> u64 {
        self.word().value.fetch_or(value, ordering_at(Location::caller(), "rmw", ordering))
    }

    #[track_caller]
    pub fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        let success = ordering_at(Location::caller(), "rmw", success);
        self.word().value.compare_exchange(current, new, success, failure)
    }
}

#[track_caller]
pub fn fence(ordering: Ordering) {
    match ordering_at(Location::caller(), "fence", ordering) {
        Relaxed => {}
        SeqCst => {
            let turn = FENCES.with_borrow(|turn| Rc::clone(turn.as_ref().expect("a model has begun")));
            let _ = turn.compare_exchange(1, 1, Relaxed, Relaxed); // see the module header
            atomic::fence(SeqCst);
        }
        ordering => atomic::fence(ordering),
    }
}

pub fn spin_loop() {
    loom::thread::yield_now();
}

pub fn nap() {
    loom::thread::yield_now();
}

fn sleepers() -> Rc<Sleepers> {
    SLEEPERS.with_borrow(|sleepers| Rc::clone(sleepers.as_ref().expect("a model has begun")))
}

/// As futex(2): the value is looked at and the sleep begun in one step. There are no timeouts here: who
/// is not woken hangs, and loom says so.
pub fn futex_wait(word: &AtomicU32, expected: u32, _: Duration) {
    let sleepers = sleepers();
    let guard = sleepers.lock.lock().expect("nobody panics inside");
    if word.word().value.load(SeqCst) == u64::from(expected) {
        drop(sleepers.woken.wait(guard).expect("nobody panics inside"));
    }
}

pub fn futex_wake(_: &AtomicU32) {
    let sleepers = sleepers();
    let guard = sleepers.lock.lock().expect("nobody panics inside");
    sleepers.woken.notify_all();
    drop(guard);
}
