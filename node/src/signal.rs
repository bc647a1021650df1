//! A value whose changes others wait for.
//!
//! As tokio's `watch`, but whoever waits is woken in the order in which they came: `watch` wakes in a
//! random one, and what one thread does under one seed would not be one run.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The value.
#[derive(Debug, Default)]
pub struct Signal<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy + PartialEq> Signal<T> {
    /// The value now.
    pub fn get(&self) -> T {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it, and wakes those that wait.
    pub fn set(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
        self.changed.notify_waiters();
    }

    /// Waits until it is as wanted.
    pub async fn wait_for(&self, wanted: impl Fn(T) -> bool) -> T {
        let mut changed = pin!(self.changed.notified());
        loop {
            // Before the look: what changes after it is heard.
            changed.as_mut().enable();
            let value = self.get();
            if wanted(value) {
                return value;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    /// Its changes from now on.
    pub fn changes(self: &Arc<Self>) -> Changes<T> {
        Changes { seen: self.get(), signal: self.clone() }
    }
}

/// Tells changes of a [`Signal`], for one that waits.
#[derive(Debug)]
pub struct Changes<T> {
    signal: Arc<Signal<T>>,
    seen: T,
}

impl<T: Copy + PartialEq> Changes<T> {
    /// Waits until the value is another than the last one that was seen, and sees it.
    pub async fn changed(&mut self) -> T {
        let seen = self.seen;
        self.seen = self.signal.wait_for(|value| value != seen).await;
        self.seen
    }

    /// Sees the value now.
    pub fn see(&mut self) -> T {
        self.seen = self.signal.get();
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_that_wait_are_woken_in_the_order_in_which_they_came() {
        for _ in 0..10 {
            let (signal, order) = (Arc::<Signal<u64>>::default(), Arc::<Mutex<Vec<_>>>::default());
            let mut waiting = tokio::task::JoinSet::new();
            for n in 0..16 {
                let (signal, order) = (signal.clone(), order.clone());
                waiting.spawn(async move {
                    signal.wait_for(|value| value > 0).await;
                    order.lock().unwrap().push(n);
                });
            }
            tokio::task::yield_now().await;
            signal.set(1);
            waiting.join_all().await;
            assert_eq!(*order.lock().unwrap(), (0..16).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_change_is_told_once_and_none_is_missed() {
        let signal = Arc::<Signal<u64>>::default();
        let mut changes = signal.changes();
        signal.set(1);
        signal.set(2);
        assert_eq!(changes.changed().await, 2);
        signal.set(2);
        assert!(futures::poll!(pin!(changes.changed())).is_pending());
        signal.set(3);
        assert_eq!(changes.see(), 3);
        let mut next = pin!(changes.changed());
        assert!(futures::poll!(&mut next).is_pending());
        signal.set(4);
        assert_eq!(next.await, 4);
    }
}
