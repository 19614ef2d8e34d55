//! Scripts that run side by side: the smallest executor there is. All tasks are asked in turn, then the world
//! goes on for one step of virtual time; nobody wakes anybody.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Lab, must};
use crate::sim::trace::{MILLISECOND, Moment};

/// How much time passes between two looks of a task.
const STEP: Moment = MILLISECOND;

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks beside the script, in the order in which they began.
#[derive(Clone, Default)]
pub(super) struct Tasks(Rc<RefCell<Vec<Running>>>);

/// The end of a task that was spawned.
pub struct Task<T>(Rc<RefCell<Option<T>>>);

impl Lab {
    /// Runs a script beside the one that calls this.
    pub fn spawn<T: 'static>(&self, script: impl Future<Output = T> + 'static) -> Task<T> {
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        let running = async move {
            let value = script.await;
            *place.borrow_mut() = Some(value);
        };
        self.tasks.0.borrow_mut().push(Box::pin(running));
        Task(outcome)
    }

    /// Waits until a task has ended.
    pub async fn join<T>(&self, task: Task<T>) -> T {
        loop {
            let outcome = task.0.borrow_mut().take();
            match outcome {
                Some(value) => return value,
                None => step().await,
            }
        }
    }

    /// Waits until all of them have ended.
    pub async fn join_all<T>(&self, tasks: Vec<Task<T>>) -> Vec<T> {
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(self.join(task).await);
        }
        outcomes
    }

    /// Does nothing for a while.
    pub async fn pause(&self, span: Moment) {
        let end = self.now() + span;
        while self.now() < end {
            step().await;
        }
    }

    /// Waits until something is so; `what` it is stands in the failure if that takes longer than `patience`.
    pub async fn until(&self, what: &str, patience: Moment, mut is_so: impl FnMut(&Lab) -> bool) {
        let end = self.now() + patience;
        while !is_so(self) {
            assert!(
                self.now() < end,
                "not in {} ms: {what}\n{}",
                patience / MILLISECOND,
                self.picture()
            );
            step().await;
        }
    }

    /// Turns the world until the script has ended.
    pub(super) fn drive<T>(&self, script: impl Future<Output = T>) -> T {
        let mut script = pin!(script);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(value) = script.as_mut().poll(&mut context) {
                return value;
            }
            // A task may spawn another.
            let mut running = std::mem::take(&mut *self.tasks.0.borrow_mut());
            running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            let mut tasks = self.tasks.0.borrow_mut();
            running.append(&mut tasks);
            *tasks = running;
            drop(tasks);
            must(self.world.borrow_mut().pass(STEP));
        }
    }
}

/// Lets the world go on for one step.
async fn step() {
    let mut has_waited = false;
    poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}
