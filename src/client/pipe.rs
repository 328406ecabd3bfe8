//! One stream of proposals to one node.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::proto::propose_outcome::Outcome;
use crate::proto::router_client::RouterClient;
use crate::proto::{ProposeItem, ProposeStreamRequest, ProposeStreamResponse};

/// Messages made ahead of the connection.
const AHEAD: usize = 2;
/// Commands in one message at most, and bytes after which it is sent.
const ITEMS: usize = 1024;
const BYTES: usize = 1 << 20;
/// How often it is looked whose time is over, while somebody waits.
const LOOK: Duration = Duration::from_millis(50);
const SILENT: &str = "the node does not answer";

/// What became of an item.
#[derive(Debug)]
pub(super) enum Fate {
    /// The node says this.
    Told(Box<Outcome>),
    /// The stream broke after it may have been sent, and why.
    Lost(String),
    /// The stream broke before it was sent.
    NotSent(String),
}

/// A handle on a stream; the stream ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Pipe(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.wake();
    }
}

/// What the handles and the stream's three tasks share: one lock a command on the way out, one a message
/// on the way back.
#[derive(Debug, Default)]
struct Shared {
    broken: AtomicBool,
    state: Mutex<State>,
    /// For the one who writes, and the one who gives up.
    submitted: Notify,
    waited: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// Not handed to the connection yet, in their order.
    outgoing: Vec<ProposeItem>,
    /// Who waits for an outcome, by the item's id. Ids are counted here, so nobody can choose them.
    waiting: FxHashMap<u64, Waiter>,
    writer_sleeps: bool,
    sweeper_sleeps: bool,
    /// No handle is left.
    closed: bool,
    /// Once the stream broke: why.
    broken: Option<String>,
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Fate>,
    until: Instant,
}

impl Pipe {
    pub(super) async fn open(channel: Channel) -> Result<Self, Status> {
        let (messages, outgoing) = mpsc::channel(AHEAD);
        let mut router = RouterClient::new(channel);
        let answers = router.propose_stream(ReceiverStream::new(outgoing)).await?;
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(Arc::clone(&shared), messages));
        tokio::spawn(read(answers.into_inner(), Arc::clone(&shared)));
        tokio::spawn(give_up(Arc::clone(&shared)));
        Ok(Self(Arc::new(Handle(shared))))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.0.broken.load(Ordering::Acquire)
    }

    /// Sends an item (its id is chosen here); the future says what becomes of it, a moment
    /// ([`LOOK`]) after `until` at the latest.
    pub(super) fn send(
        &self,
        item: ProposeItem,
        until: Instant,
    ) -> impl Future<Output = Fate> + use<> {
        let (reply, fate) = oneshot::channel();
        self.0.0.submit(item, Waiter { reply, until });
        async {
            let gone = || Fate::Lost("the stream has ended".to_owned());
            fate.await.unwrap_or_else(|_| gone())
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.submitted.notify_one();
        self.waited.notify_one();
    }

    fn submit(&self, mut item: ProposeItem, waiter: Waiter) {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            // Nobody listening is fine, here and below.
            let _ = waiter.reply.send(Fate::NotSent(why.clone()));
            return;
        }
        state.last += 1;
        item.id = state.last;
        state.waiting.insert(item.id, waiter);
        state.outgoing.push(item);
        let writer = std::mem::take(&mut state.writer_sleeps);
        let sweeper = std::mem::take(&mut state.sweeper_sleeps);
        drop(state);
        if writer {
            self.submitted.notify_one();
        }
        if sweeper {
            self.waited.notify_one();
        }
    }

    /// Waits for items and takes all there are, [`ITEMS`] at most; from here on they may have been sent.
    /// None once nobody can submit any more, or the stream broke.
    async fn take(&self) -> Option<Vec<ProposeItem>> {
        loop {
            {
                let mut state = self.state();
                if !state.outgoing.is_empty() {
                    let taken = state.outgoing.len().min(ITEMS);
                    let rest = match taken == state.outgoing.len() {
                        // As much room as was needed now, so that it is not found again step by step.
                        true => Vec::with_capacity(taken),
                        false => state.outgoing.split_off(taken),
                    };
                    return Some(std::mem::replace(&mut state.outgoing, rest));
                }
                if state.closed || state.broken.is_some() {
                    return None;
                }
                state.writer_sleeps = true;
            }
            self.submitted.notified().await;
        }
    }

    fn tell(&self, message: ProposeStreamResponse) {
        let mut state = self.state();
        for told in message.outcomes {
            let waiter = state.waiting.remove(&told.id);
            let outcome = told.outcome.and_then(|outcome| outcome.outcome);
            let fate = match outcome {
                Some(outcome) => Fate::Told(Box::new(outcome)),
                None => Fate::Lost("the node did not say".to_owned()),
            };
            if let Some(waiter) = waiter {
                let _ = waiter.reply.send(fate);
            }
        }
    }

    /// Waits until somebody waits for an outcome. False once nobody will any more.
    async fn somebody_waits(&self) -> bool {
        loop {
            {
                let mut state = self.state();
                if !state.waiting.is_empty() {
                    return true;
                }
                if state.closed || state.broken.is_some() {
                    return false;
                }
                state.sweeper_sleeps = true;
            }
            self.waited.notified().await;
        }
    }

    /// Those whose time is over hear that nobody knows.
    fn sweep(&self, now: Instant) {
        let mut state = self.state();
        let late = state.waiting.extract_if(|_, waiter| waiter.until <= now);
        for (_, waiter) in late {
            let _ = waiter.reply.send(Fate::Lost(SILENT.to_owned()));
        }
    }

    fn break_off(&self, why: &str) {
        let mut state = self.state();
        self.broken.store(true, Ordering::Release);
        state.broken.get_or_insert_with(|| why.to_owned());
        for item in std::mem::take(&mut state.outgoing) {
            if let Some(waiter) = state.waiting.remove(&item.id) {
                let _ = waiter.reply.send(Fate::NotSent(why.to_owned()));
            }
        }
        for (_, waiter) in state.waiting.drain() {
            let _ = waiter.reply.send(Fate::Lost(why.to_owned()));
        }
        drop(state);
        self.wake();
    }
}

/// Sends what is at hand, many items in a message.
async fn write(shared: Arc<Shared>, messages: mpsc::Sender<ProposeStreamRequest>) {
    while let Some(mut items) = shared.take().await {
        while !items.is_empty() {
            let rest = items.split_off(fitting(&items));
            let message = ProposeStreamRequest { items };
            items = rest;
            if messages.send(message).await.is_err() {
                return shared.break_off("the node ended the stream");
            }
        }
    }
}

/// One timer for all who wait, in place of one each.
async fn give_up(shared: Arc<Shared>) {
    while shared.somebody_waits().await {
        tokio::time::sleep(LOOK).await;
        shared.sweep(Instant::now());
    }
}

/// How many of the items make one message: at least one.
fn fitting(items: &[ProposeItem]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take_while(|item| {
        let before = bytes;
        bytes += item.encoded_len();
        before < BYTES
    });
    fits.count()
}

async fn read(mut answers: Streaming<ProposeStreamResponse>, shared: Arc<Shared>) {
    loop {
        match answers.message().await {
            Ok(Some(message)) => shared.tell(message),
            Ok(None) => return shared.break_off("the node ended the stream"),
            Err(status) => return shared.break_off(status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(shared: &Shared, until: Instant) -> tokio::sync::oneshot::Receiver<Fate> {
        let (reply, fate) = oneshot::channel();
        shared.submit(ProposeItem::default(), Waiter { reply, until });
        fate
    }

    fn now(fate: &mut oneshot::Receiver<Fate>) -> Option<Fate> {
        fate.try_recv().ok()
    }

    #[tokio::test]
    async fn f3_only_what_was_not_handed_over_certainly_was_not_sent_when_the_stream_breaks() {
        let (shared, later) = (Shared::default(), Instant::now() + LOOK);
        let mut taken = send(&shared, later);
        let items = shared.take().await.expect("one");
        assert_eq!(items.iter().map(|item| item.id).collect::<Vec<_>>(), [1]);
        let mut queued = send(&shared, later);
        shared.break_off("cut");
        assert!(matches!(now(&mut taken), Some(Fate::Lost(why)) if why == "cut"));
        assert!(matches!(now(&mut queued), Some(Fate::NotSent(why)) if why == "cut"));
        let mut after = send(&shared, later);
        assert!(matches!(now(&mut after), Some(Fate::NotSent(why)) if why == "cut"));
        assert!(shared.take().await.is_none());
        assert!(!shared.somebody_waits().await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_node_that_does_not_answer_is_told_soon_after_the_time_is_over() {
        let shared = Arc::new(Shared::default());
        tokio::spawn(give_up(Arc::clone(&shared)));
        let begun = Instant::now();
        let (mut soon, mut late) = (send(&shared, begun + LOOK), send(&shared, begun + 9 * LOOK));
        let fate = (&mut soon).await.expect("told");
        assert!(matches!(fate, Fate::Lost(why) if why == SILENT));
        assert!(
            begun.elapsed() <= 2 * LOOK + LOOK / 2,
            "{:?}",
            begun.elapsed()
        );
        assert!(now(&mut late).is_none(), "its time is not over");
        let fate = (&mut late).await.expect("told");
        assert!(matches!(fate, Fate::Lost(_)));
        assert!(begun.elapsed() >= 9 * LOOK);
        assert!(shared.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_message_has_as_many_items_as_may_be_and_the_rest_comes_next() {
        let (shared, later) = (Shared::default(), Instant::now() + LOOK);
        let waiting: Vec<_> = (0..=ITEMS).map(|_| send(&shared, later)).collect();
        assert_eq!(shared.take().await.map(|items| items.len()), Some(ITEMS));
        assert_eq!(shared.take().await.map(|items| items.len()), Some(1));
        drop(waiting);
    }
}
