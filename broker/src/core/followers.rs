//! Which service follows which: known also while the following agent is away, and after a restart.
//!
//! ```text
//! write ◀── reduce ◀── report        a service follows one service at most, so that this is a forest,
//!       ◀── copy                     and no service is twice in what follows a job
//! ```
//!
//! # Rules
//! F1  What the agents that are here say is taken in by `reconcile`, from the state alone (rule C3). What a
//!     service follows stays known until an agent offers it and says otherwise.
//! F2  No service follows itself, over any number of steps; a row has at most [`FOLLOW_DEPTH_MAX`] steps, and at
//!     most [`FOLLOWERS_MAX`] services follow others. A registration that would break this is refused, and
//!     [`Followers::learn`] never does.

use super::jobs::Change;
use crate::limits::{FOLLOW_DEPTH_MAX, FOLLOWERS_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    registry::ServiceOffer,
};
use std::collections::BTreeMap;

/// How a row is loosened that nobody needs any more.
const HINT: &str = "one that is not needed any more is forgotten when an agent offers it without `follows`";

#[derive(Default)]
pub struct Followers {
    /// A service, and the one that it follows.
    follows: BTreeMap<String, String>,
    /// What each entry that this batch touched was before it.
    undo: BTreeMap<String, Option<String>>,
}

impl Followers {
    pub fn load(stored: Vec<(String, String)>) -> Self {
        Self { follows: stored.into_iter().collect(), undo: BTreeMap::new() }
    }

    /// The services that follow `service` directly.
    pub fn after(&self, service: &str) -> Vec<String> {
        self.follows.iter().filter(|(_, followed)| *followed == service).map(|(name, _)| name.clone()).collect()
    }

    /// Whether all of these offers could be learnt (rule F2).
    ///
    /// # Errors
    /// `bad_parameter` or `busy`.
    pub fn check(&self, offers: &[ServiceOffer]) -> Result<(), Failure> {
        let mut follows = self.follows.clone();
        for offer in offers {
            set(&mut follows, &offer.name, offer.follows.as_deref());
        }
        if follows.len() > FOLLOWERS_MAX {
            let message = format!("{FOLLOWERS_MAX} services follow others, no more are taken");
            return Err(Failure::new(ErrorCode::Busy, message).with_hint(HINT));
        }
        offers.iter().try_for_each(|offer| check_rows(&follows, &offer.name)) // of so few
    }

    /// Takes in what agents say of services: all at once, as it was checked, since a row that is turned around is a circle
    /// in between. If that would break rule F2, those that would change nothing.
    pub fn learn<'a>(&mut self, offers: impl Iterator<Item = &'a ServiceOffer>) {
        let is_new = |offer: &&ServiceOffer| self.follows.get(&offer.name) != offer.follows.as_ref();
        let new: Vec<ServiceOffer> = offers.filter(is_new).cloned().collect();
        if self.check(&new).is_ok() {
            return new.iter().for_each(|offer| self.take_in(offer));
        }
        for offer in &new {
            if self.check(std::slice::from_ref(offer)).is_ok() {
                self.take_in(offer);
            }
        }
    }

    fn take_in(&mut self, offer: &ServiceOffer) {
        let before = self.follows.get(&offer.name).cloned();
        self.undo.entry(offer.name.clone()).or_insert(before);
        set(&mut self.follows, &offer.name, offer.follows.as_deref());
    }

    /// What the store must do for this batch.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let changed = self.undo.iter().filter(|(service, before)| self.follows.get(*service) != before.as_ref());
        changed.map(|(service, _)| {
            let follows = self.follows.get(service).cloned();
            Change::Follow { service: service.clone(), follows }
        })
    }

    /// Ends the batch.
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// Back to before the batch.
    pub fn rollback(&mut self) {
        for (service, before) in std::mem::take(&mut self.undo) {
            set(&mut self.follows, &service, before.as_deref());
        }
    }
}

fn set(follows: &mut BTreeMap<String, String>, service: &str, followed: Option<&str>) {
    match followed {
        Some(followed) => drop(follows.insert(service.to_owned(), followed.to_owned())),
        None => drop(follows.remove(service)),
    }
}

/// No row through `service` is a circle or too long.
fn check_rows(follows: &BTreeMap<String, String>, service: &str) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::new(ErrorCode::BadParameter, message).with_hint(HINT));
    let is_through = |row: &Vec<&str>| row.contains(&service);
    for row in follows.keys().map(|last| row_to(follows, last)).filter(is_through) {
        if row.len() > FOLLOW_DEPTH_MAX + 1 {
            let shown = row.join(" follows ");
            let is_circle = (1..row.len()).any(|at| row[..at].contains(&row[at]));
            return match is_circle {
                true => bad(format!("{shown}: a service cannot follow itself")),
                false => bad(format!("{shown} is too long a row: at most {FOLLOW_DEPTH_MAX} steps")),
            };
        }
    }
    Ok(())
}

/// A service, what it follows, what that follows, and so on; cut where it is too long, as a circle is.
fn row_to<'a>(follows: &'a BTreeMap<String, String>, last: &'a str) -> Vec<&'a str> {
    let steps = std::iter::successors(Some(last), |name| follows.get(*name).map(String::as_str));
    steps.take(FOLLOW_DEPTH_MAX + 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str, follows: Option<&str>) -> ServiceOffer {
        ServiceOffer { follows: follows.map(str::to_owned), ..ServiceOffer::new(name) }
    }

    /// `s1` follows `s0`, `s2` follows `s1`, and so on.
    fn row(steps: usize) -> Followers {
        Followers::load((1..=steps).map(|step| (format!("s{step}"), format!("s{}", step - 1))).collect())
    }

    #[test]
    fn circle_and_a_row_that_is_too_long_are_refused_wherever_the_new_link_is() {
        let longest = row(FOLLOW_DEPTH_MAX);
        for (name, follows) in [("s0", "s4"), ("s0", "s0"), ("s0", "s1"), ("new", "s4"), ("s0", "new")] {
            let refusal = longest.check(&[offer(name, Some(follows))]).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadParameter, "{name} {follows}");
            assert!(
                refusal.hint.is_some_and(|hint| hint.contains("without `follows`")),
                "its agent may never come back"
            );
        }
        for (name, follows) in [("new", "s3"), ("s4", "new"), ("s2", "new")] {
            assert_eq!(longest.check(&[offer(name, Some(follows))]), Ok(()), "{name} {follows}");
        }
        let in_one = [offer("a", Some("b")), offer("b", Some("c")), offer("c", Some("a"))];
        assert!(Followers::default().check(&in_one).unwrap_err().message.contains("cannot follow itself"));
    }

    #[test]
    fn only_so_many_services_follow_others() {
        let mut followers = Followers::load((0..FOLLOWERS_MAX).map(|n| (n.to_string(), "s".to_owned())).collect());
        let one_more = offer("new", Some("s"));
        assert_eq!(followers.check(std::slice::from_ref(&one_more)).unwrap_err().code, ErrorCode::Busy);
        followers.learn([offer("0", None)].iter());
        assert_eq!(followers.check(&[one_more]), Ok(()));
    }

    #[test]
    fn what_was_learnt_is_stored_and_undone_and_never_breaks_the_rules() {
        let mut followers = row(1);
        followers.learn([offer("s0", Some("s1")), offer("s1", Some("s0"))].iter());
        assert_eq!(followers.changes().count(), 0, "a circle, and nothing new");
        followers.learn([offer("copy", Some("s0")), offer("s1", None)].iter());
        let expected = [
            Change::Follow { service: "copy".to_owned(), follows: Some("s0".to_owned()) },
            Change::Follow { service: "s1".to_owned(), follows: None },
        ];
        assert_eq!(followers.changes().collect::<Vec<_>>(), expected);
        followers.rollback();
        assert_eq!((followers.after("s0"), followers.changes().count()), (vec!["s1".to_owned()], 0));
    }

    /// In whatever order they are said: each alone would be a circle with what was known before.
    #[test]
    fn row_that_is_turned_around_is_learnt_at_once() {
        let offers = [offer("s0", Some("s1")), offer("s1", Some("s2")), offer("s2", None)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut followers = row(2);
            followers.learn(order.iter().map(|at| &offers[*at]));
            assert_eq!(
                (followers.after("s2"), followers.after("s1"), followers.after("s0")),
                (vec!["s1".to_owned()], vec!["s0".to_owned()], vec![])
            );
        }
    }

    #[test]
    fn one_that_would_break_the_rules_costs_the_others_nothing() {
        let mut followers = row(1);
        followers.learn([offer("s0", Some("s1")), offer("copy", Some("s0"))].iter());
        assert_eq!(followers.after("s0"), ["copy", "s1"]);
    }
}
