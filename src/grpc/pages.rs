//! Pages of lists: where each ends, the token that asks for the next, and the states that lists are
//! read from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::node::Applied;
use crate::proto::{Compacted, ListRequest, PageRequest};
use crate::state_machine::RouterState;
use crate::types::LogIndex;

use super::details::with_detail;
use super::status::invalid;

const DEFAULT_SIZE: u32 = 100;
const MAX_SIZE: u32 = 1000;
/// Bytes of records after which a page ends. With one more of the largest it still fits into the
/// messages that clients take, 4 MiB.
const PAGE_BYTES: usize = 1 << 20;
/// How long a state is kept for a list after its last page.
const KEEP: Duration = Duration::from_secs(60);
/// Most states that are kept. A state that nothing changed since costs nothing; the others cost at
/// most a whole one each.
const MAX_PINNED: usize = 16;

pub(super) type State = Arc<Applied<RouterState>>;

/// Where in a list a record stands: lists are in this order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub(super) struct Place {
    /// Which of several lists in a row.
    #[prost(uint32, tag = "1")]
    pub(super) section: u32,
    #[prost(string, tag = "2")]
    pub(super) id: String,
    #[prost(uint32, tag = "3")]
    pub(super) number: u32,
}

impl Place {
    pub(super) fn id(id: impl Into<String>) -> Self {
        Self::number(id, 0)
    }

    pub(super) fn number(id: impl Into<String>, number: u32) -> Self {
        let (section, id) = (0, id.into());
        Self {
            section,
            id,
            number,
        }
    }
}

/// What a page token says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Token {
    /// The state that the list is read from.
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
    /// Hash of what was asked for.
    #[prost(fixed64, tag = "2")]
    asked: u64,
    /// The last record of the page.
    #[prost(message, optional, tag = "3")]
    after: Option<Place>,
}

/// A request without its page, as a number.
fn asked<Q: ListRequest>(request: &Q) -> u64 {
    let mut question = request.clone();
    (*question.page(), *question.read()) = (None, None);
    let mut bytes = Q::full_name().into_bytes();
    bytes.push(0);
    bytes.extend(question.encode_to_vec());
    xxh3_64(&bytes)
}

/// The token in a request; `None` for the first page.
pub(super) fn token<Q: ListRequest>(request: &mut Q) -> Result<Option<Token>, Status> {
    let page = request.page().clone().unwrap_or_default();
    if page.token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(&page.token).ok();
    let token = bytes.and_then(|bytes| Token::decode(bytes.as_slice()).ok());
    let token = token.filter(|token| token.asked == asked(request));
    let why = "is not from this call with what it asks for; begin without one";
    token.map(Some).ok_or_else(|| invalid("page.token", why))
}

/// A page as it fills.
pub(super) struct Page {
    after: Option<Place>,
    last: Option<Place>,
    /// Records that still fit.
    left: u32,
    bytes: usize,
    /// Whether the list goes on.
    more: bool,
}

impl Page {
    pub(super) fn new(request: Option<PageRequest>, token: Option<&Token>) -> Self {
        let left = match request.map_or(0, |page| page.size) {
            0 => DEFAULT_SIZE,
            size => size.min(MAX_SIZE),
        };
        Self {
            after: token.and_then(|token| token.after.clone()),
            last: None,
            left,
            bytes: 0,
            more: false,
        }
    }

    /// Behind which record it begins.
    pub(super) fn after(&self) -> Option<&Place> {
        self.after.as_ref()
    }

    /// Of records with this as their id, behind which one, or behind `given` if that is further on.
    pub(super) fn after_id<'a>(&'a self, given: Option<&'a str>) -> Option<&'a str> {
        given.max(self.after.as_ref().map(|place| place.id.as_str()))
    }

    /// As many of `records` as fit. Those at the same place come together.
    pub(super) fn fill<T: Message>(&mut self, records: impl Iterator<Item = (Place, T)>) -> Vec<T> {
        let mut filled = Vec::new();
        if self.more {
            return filled;
        }
        for (place, record) in records {
            let together = self.last.as_ref() == Some(&place);
            if !together && (self.left == 0 || self.bytes >= PAGE_BYTES) {
                self.more = true;
                break;
            }
            self.left = self.left.saturating_sub(1);
            self.bytes += record.encoded_len();
            self.last = Some(place);
            filled.push(record);
        }
        filled
    }

    /// What the next page is asked for with; `None` after the last.
    pub(super) fn next<Q: ListRequest>(self, request: &Q, index: LogIndex) -> Option<String> {
        let token = Token {
            index,
            asked: asked(request),
            after: self.last,
        };
        (self.more).then(|| URL_SAFE_NO_PAD.encode(token.encode_to_vec()))
    }
}

/// The states that lists are being read from.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Pinned>);

#[derive(Debug, Default)]
struct Pinned {
    /// The one used last comes last.
    states: Vec<(Instant, State)>,
    /// Whether a task looks after those that nobody asks for any more.
    swept: bool,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, Pinned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a state for the next page.
    pub(super) fn keep(self: &Arc<Self>, state: State) {
        let mut pinned = self.lock();
        pinned.expire();
        pinned.take(state.id.index);
        if pinned.states.len() >= MAX_PINNED {
            pinned.states.remove(0);
        }
        pinned.states.push((Instant::now(), state));
        if !std::mem::replace(&mut pinned.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// The state at `index`, which `now` may be.
    pub(super) fn state(&self, index: LogIndex, now: State) -> Result<State, Status> {
        if now.id.index == index {
            return Ok(now);
        }
        let mut pinned = self.lock();
        pinned.expire();
        if let Some(state) = pinned.take(index) {
            pinned.states.push((Instant::now(), Arc::clone(&state)));
            return Ok(state);
        }
        let detail = Compacted {
            oldest: now.id.index,
        };
        let text = format!(
            "the state at index {index}, from which this list is read, is not kept here; ask the node \
             that gave the first page, or begin again"
        );
        Err(with_detail(Code::OutOfRange, text, &detail))
    }
}

impl Pinned {
    fn take(&mut self, index: LogIndex) -> Option<State> {
        let at = self
            .states
            .iter()
            .position(|(_, it)| it.id.index == index)?;
        Some(self.states.remove(at).1)
    }

    fn expire(&mut self) {
        self.states.retain(|(used, _)| used.elapsed() < KEEP);
    }
}

/// Lets go of states that nobody asks for, until there is none.
async fn sweep(pins: Weak<Pins>) {
    loop {
        tokio::time::sleep(KEEP / 4).await;
        let Some(pins) = pins.upgrade() else {
            return;
        };
        let mut pinned = pins.lock();
        pinned.expire();
        if pinned.states.is_empty() {
            pinned.swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ListGroupsRequest, ListServicesRequest, OffsetRecord};
    use crate::types::LogId;

    fn state(index: LogIndex) -> State {
        Arc::new(Applied {
            id: LogId { term: 1, index },
            time_us: 0,
            digest: 0,
            view: Arc::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn states_are_kept_for_a_time_and_not_too_many() {
        let pins = Arc::new(Pins::default());
        let weak: Vec<_> = (1..=MAX_PINNED as u64)
            .map(|index| {
                let state = state(index);
                let weak = Arc::downgrade(&state);
                pins.keep(state);
                weak
            })
            .collect();
        let gone = |index| pins.state(index, state(999)).is_err();
        // The one used last stays longest.
        assert!(!gone(1));
        pins.keep(state(100));
        assert!(gone(2) && !gone(1) && !gone(3) && !gone(100));
        assert!(!gone(999), "that of now needs no keeping");
        tokio::time::sleep(KEEP / 2).await;
        assert!(!gone(1));
        tokio::time::sleep(KEEP / 2 + Duration::from_secs(1)).await;
        assert!(gone(3) && !gone(1));
        // Nobody asks any more: they go all the same.
        tokio::time::sleep(KEEP * 2).await;
        assert!(weak.iter().all(|state| state.strong_count() == 0));
        assert!(!pins.lock().swept);
        // And another one is looked after again.
        let next = state(200);
        let weak = Arc::downgrade(&next);
        pins.keep(next);
        tokio::time::sleep(KEEP * 2).await;
        assert_eq!(weak.strong_count(), 0);
    }

    #[test]
    fn a_page_ends_by_count_by_bytes_and_not_within_a_place() {
        let records = |count: u32, source: &str| {
            let source_id = source.to_owned();
            (0..count).map(move |partition| {
                let record = OffsetRecord {
                    source_id: source_id.clone(),
                    partition,
                    ..OffsetRecord::default()
                };
                // Three at each place.
                (Place::number("s", partition / 3), record)
            })
        };
        let fill = |size, count, source: &str| {
            let request = PageRequest {
                size,
                token: String::new(),
            };
            let mut page = Page::new(Some(request), None);
            let filled = page.fill(records(count, source)).len();
            (filled, page.more)
        };
        assert_eq!(fill(4, 9, "s"), (6, true));
        assert_eq!(fill(6, 6, "s"), (6, false));
        assert_eq!(fill(0, 500, "s"), (102, true));
        assert_eq!(fill(u32::MAX, 5000, "s"), (1002, true));
        let large = "s".repeat(PAGE_BYTES / 2);
        assert_eq!(fill(1000, 9, &large), (3, true));
    }

    #[test]
    fn a_token_belongs_to_one_question() {
        let mut page = Page::new(None, None);
        (page.last, page.more) = (Some(Place::id("a")), true);
        let mut request = ListServicesRequest {
            service_name: Some("n".to_owned()),
            ..ListServicesRequest::default()
        };
        let given = page.next(&request, 7).expect("more");
        let with = |token: &str, size| {
            let token = token.to_owned();
            Some(PageRequest { size, token })
        };
        request.page = with(&given, 5);
        let told = token(&mut request).expect("its own").expect("a token");
        assert_eq!((told.index, told.after), (7, Some(Place::id("a"))));
        let refused = |status: Status| status.code() == Code::InvalidArgument;
        request.service_name = None;
        assert!(token(&mut request).is_err_and(refused));
        let mut other = ListGroupsRequest {
            page: with(&given, 0),
            ..ListGroupsRequest::default()
        };
        assert!(token(&mut other).is_err_and(refused));
        for wrong in ["!", "AAAA", &given[..given.len() - 4]] {
            request.page = with(wrong, 0);
            assert!(token(&mut request).is_err_and(refused), "{wrong}");
        }
    }
}
