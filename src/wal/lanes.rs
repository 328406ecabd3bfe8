//! A thread that runs what it is handed, one after the other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError, thread};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Queue<T> {
    tasks: VecDeque<(Instant, T)>,
    stop: bool,
}

/// Hands tasks to its thread.
pub(crate) struct Worker<T> {
    shared: Arc<(Mutex<Queue<T>>, Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// A thread that hands tasks to `run`. `finish`: what was submitted before a stop still runs.
    pub(crate) fn spawn(
        name: &str,
        finish: bool,
        run: impl Fn(T) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Queue {
            tasks: VecDeque::new(),
            stop: false,
        };
        let shared = Arc::new((Mutex::new(queue), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(task) = next_task(&theirs, finish) {
                    run(task);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn submit(&self, delay: Duration, task: T) {
        let (queue, wake) = &*self.shared;
        lock(queue).tasks.push_back((Instant::now() + delay, task));
        wake.notify_one();
    }

    /// Returns when the thread has ended.
    pub(crate) fn stop(&mut self) {
        let (queue, wake) = &*self.shared;
        lock(queue).stop = true;
        wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the log panicked");
        }
    }
}

fn next_task<T>((queue, wake): &(Mutex<Queue<T>>, Condvar), finish: bool) -> Option<T> {
    let mut held = lock(queue);
    loop {
        let due = held.tasks.front().map(|task| task.0);
        if held.stop && (!finish || due.is_none()) {
            return None;
        }
        let now = Instant::now();
        held = match due {
            Some(due) if due <= now || held.stop => return held.tasks.pop_front().map(|it| it.1),
            Some(due) => {
                let waited = wake.wait_timeout(held, due - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => wake.wait(held).unwrap_or_else(PoisonError::into_inner),
        };
    }
}
