//! What the controller is reached through: the control socket and the metrics server.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;

use crate::{
    config::Config,
    ctl::{self, Command, ControlSocket, Door},
    http,
    shared::Shared,
    task::Task,
};

/// Both of them, as long as this exists.
#[derive(Debug)]
pub struct Doors {
    door: Door,
    control: Task,
    metrics: Option<Task>,
}

impl Doors {
    /// Opens them: what clients of the control socket want done goes to `commands`.
    ///
    /// # Errors
    /// Fails when socket or address are taken or cannot be made.
    pub async fn open(
        config: &Config,
        shared: &Arc<Shared>,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self> {
        let socket = ControlSocket::bind(&config.control_socket)?;
        let door = socket.door();
        let control = Task::spawn(ctl::serve(socket, Arc::clone(shared), commands));
        let metrics = match config.metrics_listen {
            Some(address) => {
                let listener = http::bind(address).await?;
                Some(Task::spawn(http::serve(listener, Arc::clone(shared))))
            }
            None => None,
        };
        Ok(Self {
            door,
            control,
            metrics,
        })
    }

    /// Leaves socket and address to another levee. Who asked something over the control socket still
    /// gets an answer.
    pub async fn leave(&mut self) {
        self.door.close();
        if let Some(metrics) = self.metrics.take() {
            metrics.end().await;
        }
    }

    /// Closes them. Behind [`leave`](Self::leave), waits until those who asked have their answers.
    pub async fn close(self) {
        if self.door.is_closed() {
            self.door.empty().await;
        }
        self.control.end().await;
        if let Some(metrics) = self.metrics {
            metrics.end().await;
        }
    }
}
