//! Tasks and threads that run as long as something else does.

use std::{convert::Infallible, thread};

use anyhow::Result;
use tokio::task::JoinHandle;

/// A task that ends with the value.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Task {
    /// Runs `task`, which fails at most: then its error is logged. To be called in a tokio runtime.
    pub fn spawn(task: impl Future<Output = Result<Infallible>> + Send + 'static) -> Self {
        Self(tokio::spawn(async {
            let Err(error) = task.await;
            log::error!("{error:#}");
        }))
    }

    /// Ends the task, and waits until it has cleaned up.
    pub async fn end(mut self) {
        self.0.abort();
        // Cancelled is what it should be.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the process when its thread, one of what it names, panics: the thread's clients would wait
/// for ever. The service manager starts levee again, and the kernel serves meanwhile.
pub(crate) struct EndsAll(pub(crate) &'static str);

impl Drop for EndsAll {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!("a thread of {} panicked: levee ends", self.0);
            std::process::abort();
        }
    }
}
