//! Tasks that run as long as something else does.

use std::convert::Infallible;

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
