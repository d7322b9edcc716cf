//! Work that goes on beside a test, on a thread and a runtime of its own, until it is dropped.

use std::future::Future;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

/// Ends when it is dropped, or with the process.
pub struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs the future that `make` makes.
    pub fn start<F: Future<Output = ()>>(name: &str, make: impl FnOnce() -> F + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            super::block_on(async {
                tokio::select! {
                    () = make() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread starts");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}
