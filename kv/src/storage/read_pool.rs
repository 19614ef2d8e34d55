//! Threads for reads that are too large for the thread of their caller: scans, checksums, large
//! batches.
//!
//! A read is a [`ReadJob`] that does a bounded *slice* of its work at a time. After each slice it
//! goes to the back of the queue, so a scan of a million pairs delays a scan of ten by one slice
//! and not by itself. A read whose caller has gone (deadline, closed connection) ends at its next
//! slice.
//!
//! The queue never refuses: a job has a [`Permit`] while it lives, and whoever finds no permit
//! waits. The threads only call [`ReadPool::turn`]; a simulator may call it instead of them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use skerry_raftstore::time;

use super::permits::{Permit, Permits};
use super::reply::{Replies, Reply};
use crate::error::{Error, Result};

/// A read in slices.
pub trait ReadJob: Send + 'static {
    /// What the read answers.
    type Output: Send + 'static;

    /// Does the next bounded part; `None` while there is more to do. Not called again after an
    /// answer.
    fn slice(&mut self) -> Result<Option<Self::Output>>;
}

/// The pool. Stopped by [`ReadPool::stop`], which its owner calls.
pub struct ReadPool {
    permits: Arc<Permits>,
    replies: Arc<Replies>,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads see of the pool.
struct Shared {
    /// Guards the queue and the flag; no slice runs under it.
    queue: Mutex<Queue>,
    /// Signalled once for each job that is put in, and to all when the pool stops.
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    /// At most as many as there are permits.
    jobs: VecDeque<Box<dyn Task>>,
    /// Set once: nothing new is taken, what is in is finished.
    stopping: bool,
}

/// A job with its reply, whatever it answers.
trait Task: Send {
    /// One slice; the task itself if there is more to do.
    fn turn(self: Box<Self>) -> Option<Box<dyn Task>>;
}

struct Running<J: ReadJob> {
    job: J,
    reply: Reply<J::Output>,
    _permit: Permit,
}

impl<J: ReadJob> Task for Running<J> {
    fn turn(mut self: Box<Self>) -> Option<Box<dyn Task>> {
        if self.reply.is_abandoned() {
            self.reply.answer(Err(Error::Unknown("the caller has gone".to_string())));
            return None;
        }
        match self.job.slice() {
            Ok(None) => return Some(self),
            Ok(Some(output)) => self.reply.answer(Ok(output)),
            Err(error) => self.reply.answer(Err(error)),
        }
        None
    }
}

impl ReadPool {
    /// A pool of `threads` threads which holds at most `jobs_max` reads at a time. Without threads
    /// somebody must call [`ReadPool::turn`].
    pub fn start(threads: usize, jobs_max: usize) -> Arc<ReadPool> {
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue::default()), arrived: Condvar::new() });
        let handles = (0..threads)
            .map(|number| {
                let shared = shared.clone();
                time::spawn(&format!("read-{number}"), move || shared.run())
            })
            .collect();
        Arc::new(ReadPool {
            permits: Permits::new(jobs_max, jobs_max),
            replies: Replies::new(),
            shared,
            threads: Mutex::new(handles),
        })
    }

    /// Runs `job` to its end.
    pub async fn run<J: ReadJob>(&self, job: J) -> Result<J::Output> {
        let permit = self.permits.acquire(1).await;
        let (reply, answer) = self.replies.pair();
        {
            let mut queue = self.shared.lock();
            if queue.stopping {
                reply.answer(Err(Error::Stopping));
            } else {
                queue.jobs.push_back(Box::new(Running { job, reply, _permit: permit }));
            }
        }
        self.shared.arrived.notify_one();
        answer.await
    }

    /// One slice of the read at the head of the queue; `false` if there is none.
    pub fn turn(&self) -> bool {
        let task = self.shared.lock().jobs.pop_front();
        let some = task.is_some();
        if let Some(task) = task {
            self.shared.turn(task);
        }
        some
    }

    /// Finishes what is in the queue, refuses what comes later, and waits for the threads.
    pub fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.arrived.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A panic in it has already ended the process.
            let _ = thread.join();
        }
        drop(threads);
        while self.turn() {}
    }
}

impl Shared {
    /// The life of a thread.
    fn run(&self) {
        loop {
            let mut queue = self.lock();
            let task = loop {
                if let Some(task) = queue.jobs.pop_front() {
                    break task;
                }
                if queue.stopping {
                    return;
                }
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            self.turn(task);
        }
    }

    fn turn(&self, task: Box<dyn Task>) {
        if let Some(task) = task.turn() {
            self.lock().jobs.push_back(task);
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use futures_executor::block_on;

    use super::*;

    /// Writes its name into the log at each slice.
    struct Story {
        name: &'static str,
        slices: usize,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    impl ReadJob for Story {
        type Output = &'static str;

        fn slice(&mut self) -> Result<Option<&'static str>> {
            self.log.lock().unwrap().push(self.name);
            self.slices -= 1;
            Ok((self.slices == 0).then_some(self.name))
        }
    }

    #[test]
    fn a_long_read_lets_a_short_one_pass_and_an_abandoned_one_ends() {
        let pool = ReadPool::start(0, 10);
        let log = Arc::new(Mutex::new(Vec::new()));
        let story = |name, slices| Story { name, slices, log: log.clone() };
        let mut context = Context::from_waker(Waker::noop());
        let mut long = pin!(pool.run(story("long", 3)));
        let mut short = pin!(pool.run(story("short", 1)));
        let mut gone = Box::pin(pool.run(story("gone", 1_000)));
        assert!(long.as_mut().poll(&mut context).is_pending());
        assert!(short.as_mut().poll(&mut context).is_pending());
        assert!(gone.as_mut().poll(&mut context).is_pending());
        for _ in 0..4 {
            assert!(pool.turn());
        }
        drop(gone);
        while pool.turn() {}
        assert_eq!(*log.lock().unwrap(), ["long", "short", "gone", "long", "long"]);
        assert!(matches!(long.as_mut().poll(&mut context), Poll::Ready(Ok("long"))));
        assert!(matches!(short.as_mut().poll(&mut context), Poll::Ready(Ok("short"))));
        assert_eq!(pool.replies.unanswered(), 0);
    }

    #[test]
    fn a_stopped_pool_has_answered_everything_and_refuses_more() {
        let pool = ReadPool::start(2, 10);
        let log = Arc::new(Mutex::new(Vec::new()));
        let job = Story { name: "late", slices: 1, log: log.clone() };
        let before = Story { name: "before", slices: 5, log };
        assert_eq!(block_on(pool.run(before)).unwrap(), "before");
        pool.stop();
        assert!(matches!(block_on(pool.run(job)), Err(Error::Stopping)));
    }
}
