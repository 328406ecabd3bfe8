//! A closed loop for a while: N tasks, each with exactly one proposal outstanding.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// How long the clients are at work before what comes back is counted.
pub(crate) const LEAD: Duration = Duration::from_millis(250);
/// How long it is counted then.
pub(crate) const SPAN: Duration = Duration::from_millis(750);

/// What takes proposals.
pub(crate) trait Propose: Send + Sync + 'static {
    /// One proposal of that client; returns once it is committed and applied.
    fn propose(&self, client: usize) -> impl Future<Output = ()> + Send;
}

/// What a while of it came to.
pub(crate) struct Came {
    pub(crate) per_second: f64,
    /// Median and 99th percentile of the time of one proposal.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Came {
    /// Of so many answers within [`SPAN`].
    pub(crate) fn new(answers: usize, p50: Duration, p99: Duration) -> Self {
        let per_second = answers as f64 / SPAN.as_secs_f64();
        Self {
            per_second,
            p50,
            p99,
        }
    }
}

/// Lets so many clients propose for [`LEAD`] and [`SPAN`]. What is counted is what is answered within the
/// span: a side whose proposals take long is not charged for the clients' coming and going.
pub(crate) async fn run<P: Propose>(side: &Arc<P>, clients: usize) -> Came {
    let (mut tasks, from) = (JoinSet::new(), Instant::now() + LEAD);
    let until = from + SPAN;
    for client in 0..clients {
        let side = Arc::clone(side);
        tasks.spawn(async move {
            let (mut times, mut begun) = (Vec::new(), Instant::now());
            while begun < until {
                side.propose(client).await;
                let now = Instant::now();
                if (from..until).contains(&now) {
                    times.push(now - begun);
                }
                begun = now;
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        times.extend(ended.expect("no task fails"));
    }
    times.sort_unstable();
    // None at all within the span: each took longer than that.
    let nth = |nth: usize| times.get(nth).copied().unwrap_or(SPAN);
    let (p50, p99) = (nth(times.len() / 2), nth(times.len() * 99 / 100));
    Came::new(times.len(), p50, p99)
}
