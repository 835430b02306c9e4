//! The agent's connection: what is said and heard in one turn.
//!
//! ```text
//! outbox, answers ──▶ session ──▶ link ──▶ broker
//! broker ──▶ link ──▶ session ──▶ workers (jobs), questions
//! ```

use crate::{
    client::not_accepted,
    job::{JobEnd, report_of},
    limits::RECEIVE_BURST,
    link::{Link, WakeSource},
    monitor::Handshake,
    outbox::Outbox,
    questions::Questions,
    session::{Message, Order, Session},
    workers::Workers,
};
use ecs_schemas::keys::ClientKey;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// What the thread that leads owns.
pub struct Connection {
    pub endpoint: String,
    pub key: Option<ClientKey>,
    pub link: Link,
    pub source: WakeSource,
    pub session: Session,
    pub workers: Workers,
    pub questions: Arc<Questions>,
    pub outbox: Arc<Outbox>,
    pub is_connected: Arc<AtomicBool>,
    /// Of handlers that the leading thread has run, for the next turn.
    pub answers: Vec<Message>,
}

impl Connection {
    /// Says what is to be said and hears what has come; with `may_wait` it waits for that. False when the agent has left.
    pub fn turn(&mut self, may_wait: bool) -> bool {
        let now = Instant::now();
        self.take_news(now);
        if self.session.is_link_dead(now) {
            self.renew_link(now);
        }
        let can_send = self.link.is_writable();
        if !can_send && self.link.handshake() == Handshake::Refused {
            self.session.not_let_in(&not_accepted(&self.endpoint, self.key.as_ref().map(|key| key.name.as_str())));
        }
        let due = self.session.due(now, &self.outbox, self.workers.is_idle(), can_send);
        // What is left when the queue is full waits; what could not leave for want of a connection is repeated.
        let sent = self.link.send_all(&due);
        self.session.keep_unsent(due.into_iter().skip(sent));
        self.is_connected.store(self.session.is_registered(), Ordering::Relaxed);
        if may_wait {
            self.wait(now, can_send);
        }
        self.receive();
        !self.session.is_left()
    }

    fn take_news(&mut self, now: Instant) {
        let news = self.outbox.take();
        for report in news.reports.iter().filter(|report| report.state.is_end()) {
            self.workers.forget(report.id);
        }
        self.session.take(news, now);
        // Behind what their handlers have published: whoever asked finds it.
        self.session.answer(self.answers.drain(..));
        if self.session.is_stopping() {
            self.workers.kill_all();
            self.questions.cancel_until(u64::MAX);
        }
    }

    /// A fresh socket has nothing queued for a broker that may never read it.
    fn renew_link(&mut self, now: Instant) {
        match Link::connect(&self.endpoint, self.key.as_ref()) {
            Ok(link) => self.link = link,
            Err(error) => tracing::error!("{error}; the old connection is kept"),
        }
        self.session.link_renewed(now);
    }

    fn wait(&self, now: Instant, can_send: bool) {
        if self.session.is_left() {
            return;
        }
        let wakes_by_connection = self.session.is_greeting() && !can_send;
        if wakes_by_connection {
            self.link.wait_to_send(&self.source, self.session.connect_wake().saturating_duration_since(now));
        } else {
            let wake = self.session.next_wake(now, &self.outbox);
            self.link.wait(&self.source, wake.saturating_duration_since(now));
        }
    }

    fn receive(&mut self) {
        for _ in 0..RECEIVE_BURST {
            let Some((header, body)) = self.link.receive() else { return };
            if let Some(order) = self.session.received(&header, &body, Instant::now()) {
                self.obey(order);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Ask(header, body) => self.questions.ask(header, &body),
            Order::Cancel(id) => self.questions.cancel(id),
            Order::Welcome { broker_started_ns, kept } => {
                self.questions.cancel_until(broker_started_ns);
                kept.into_iter().for_each(|(name, values)| self.questions.restore(name, values));
            }
            Order::Restore(name, values) => self.questions.restore(name, values),
            Order::Run(run) if self.session.has(run.id) => self.session.repeat(run.id),
            // A job that comes while the agent stops goes back to the queue when it has left.
            Order::Run(_) if self.session.is_stopping() => {}
            Order::Run(run) => {
                self.session.add(run.id);
                self.workers.run(run);
            }
            Order::Kill(kill) if self.workers.kill(kill.id) => {}
            Order::Kill(kill) if self.session.has(kill.id) => self.session.repeat(kill.id),
            Order::Kill(kill) => {
                let end = JobEnd::Cancelled { result: None }; // it never began here
                self.session.keep(report_of(kill.id, kill.attempt, end, false));
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.is_connected.store(false, Ordering::Relaxed);
    }
}
