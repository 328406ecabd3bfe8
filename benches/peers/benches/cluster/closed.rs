//! A closed loop for a while: N tasks, each with exactly one proposal outstanding.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

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

/// Lets so many clients propose for `span`.
pub(crate) async fn run<P: Propose>(side: &Arc<P>, clients: usize, span: Duration) -> Came {
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for client in 0..clients {
        let side = Arc::clone(side);
        tasks.spawn(async move {
            let (mut times, mut begun) = (Vec::new(), Instant::now());
            while begun - start < span {
                side.propose(client).await;
                let now = Instant::now();
                times.push(now - begun);
                begun = now;
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        times.extend(ended.expect("no task fails"));
    }
    let took = start.elapsed();
    times.sort_unstable();
    Came {
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}
