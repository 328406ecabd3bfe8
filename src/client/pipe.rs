//! One stream of proposals to one node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use tokio::sync::{mpsc, oneshot};
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
pub(super) struct Pipe {
    submit: mpsc::UnboundedSender<Submission>,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
struct Submission {
    item: ProposeItem,
    reply: oneshot::Sender<Fate>,
}

/// Those who wait for an outcome.
#[derive(Debug, Default)]
struct Waiting {
    broken: AtomicBool,
    by_id: Mutex<ById>,
}

#[derive(Debug, Default)]
struct ById {
    last: u64,
    replies: HashMap<u64, oneshot::Sender<Fate>>,
    /// Once the stream broke: why.
    broken: Option<String>,
}

impl Pipe {
    pub(super) async fn open(channel: Channel) -> Result<Self, Status> {
        let (messages, outgoing) = mpsc::channel(AHEAD);
        let mut router = RouterClient::new(channel);
        let answers = router.propose_stream(ReceiverStream::new(outgoing)).await?;
        let (submit, submitted) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(write(submitted, messages, Arc::clone(&waiting)));
        tokio::spawn(read(answers.into_inner(), Arc::clone(&waiting)));
        Ok(Self { submit, waiting })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.waiting.broken.load(Ordering::Acquire)
    }

    /// Sends an item (its id is chosen here) and waits for what becomes of it.
    pub(super) async fn send(&self, item: ProposeItem) -> Fate {
        let (reply, fate) = oneshot::channel();
        let gone = "the stream has ended";
        if self.submit.send(Submission { item, reply }).is_err() {
            return Fate::NotSent(gone.to_owned());
        }
        fate.await.unwrap_or_else(|_| Fate::Lost(gone.to_owned()))
    }
}

impl Waiting {
    fn by_id(&self) -> MutexGuard<'_, ById> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the items their ids; from here on they may have been sent. None if the stream broke.
    fn register(&self, submissions: &mut Vec<Submission>) -> Vec<ProposeItem> {
        let mut by_id = self.by_id();
        let mut items = Vec::with_capacity(submissions.len());
        for Submission { mut item, reply } in submissions.drain(..) {
            if let Some(why) = &by_id.broken {
                // Nobody listening is fine, here and below.
                let _ = reply.send(Fate::NotSent(why.clone()));
                continue;
            }
            by_id.last += 1;
            item.id = by_id.last;
            by_id.replies.insert(item.id, reply);
            items.push(item);
        }
        items
    }

    fn tell(&self, message: ProposeStreamResponse) {
        let mut by_id = self.by_id();
        for told in message.outcomes {
            let reply = by_id.replies.remove(&told.id);
            let outcome = told.outcome.and_then(|outcome| outcome.outcome);
            let fate = match outcome {
                Some(outcome) => Fate::Told(Box::new(outcome)),
                None => Fate::Lost("the node did not say".to_owned()),
            };
            if let Some(reply) = reply {
                let _ = reply.send(fate);
            }
        }
    }

    fn break_off(&self, why: &str) {
        let mut by_id = self.by_id();
        self.broken.store(true, Ordering::Release);
        by_id.broken.get_or_insert_with(|| why.to_owned());
        for (_, reply) in by_id.replies.drain() {
            let _ = reply.send(Fate::Lost(why.to_owned()));
        }
    }
}

/// Sends what is at hand, many items in a message.
async fn write(
    mut submitted: mpsc::UnboundedReceiver<Submission>,
    messages: mpsc::Sender<ProposeStreamRequest>,
    waiting: Arc<Waiting>,
) {
    let mut batch = Vec::new();
    while submitted.recv_many(&mut batch, ITEMS).await > 0 {
        let mut items = waiting.register(&mut batch);
        while !items.is_empty() {
            let rest = items.split_off(fitting(&items));
            let message = ProposeStreamRequest { items };
            items = rest;
            if messages.send(message).await.is_err() {
                waiting.break_off("the node ended the stream");
                break;
            }
        }
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

async fn read(mut answers: Streaming<ProposeStreamResponse>, waiting: Arc<Waiting>) {
    loop {
        match answers.message().await {
            Ok(Some(message)) => waiting.tell(message),
            Ok(None) => return waiting.break_off("the node ended the stream"),
            Err(status) => return waiting.break_off(status.message()),
        }
    }
}
