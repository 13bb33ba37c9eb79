//! A real Prometheus that runs the files of `deploy/` as they are, only faster.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use levee_tests::{netns::Netns, process::Process, scratch};
use serde_json::Value;
use tempfile::TempDir;

use crate::files;

const LISTEN: &str = "127.0.0.1:9090";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often it scrapes and evaluates here.
const INTERVAL: &str = "1s";

/// A running Prometheus; dropping it ends it and removes its files.
#[derive(Debug)]
pub(crate) struct Prometheus {
    netns: Netns,
    directory: TempDir,
    process: Process,
}

/// An alerting rule as Prometheus has it.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) state: String,
    /// `None` unless its evaluation failed.
    pub(crate) error: Option<String>,
}

impl Prometheus {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let directory = scratch::directory()?;
        let path = |name: &str| directory.path().join(name);
        let shipped = files::read("prometheus.yml");
        let faster = shipped.replace("_interval: 5s", &format!("_interval: {INTERVAL}"));
        ensure!(faster != shipped, "prometheus.yml has other intervals");
        fs::write(path("prometheus.yml"), faster)?;
        fs::write(path("levee.rules.yml"), files::read("levee.rules.yml"))?;
        let log = fs::File::create(path("log"))?;
        let mut command = netns.command("prometheus");
        command
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={LISTEN}"))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut prometheus = Self {
            netns: netns.clone(),
            process: Process::spawn("prometheus", command)?,
            directory,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = prometheus.get("/-/ready", &[]) {
            let ended = prometheus.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(prometheus.directory.path().join("log"))?;
                bail!("Prometheus is not ready: {error:#}; status {ended:?}; its log:\n{log}");
            }
            thread::sleep(RETRY_INTERVAL);
        }
        Ok(prometheus)
    }

    /// The values that an expression has now; those that are no numbers are left out.
    pub(crate) fn values(&self, expression: &str) -> Result<Vec<f64>> {
        let result = self.api("query", &[("query", expression)])?;
        let samples = match result["resultType"].as_str() {
            Some("vector") => result["result"].as_array().cloned().unwrap_or_default(),
            Some("scalar") => vec![serde_json::json!({ "value": result["result"] })],
            other => bail!("{expression}: a result of type {other:?}"),
        };
        let numbers = samples.iter().map(|sample| {
            let text = sample["value"][1]
                .as_str()
                .context("a sample has a value")?;
            Ok(text.parse::<f64>()?)
        });
        let numbers: Vec<_> = numbers.collect::<Result<_>>()?;
        Ok(numbers
            .into_iter()
            .filter(|value| !value.is_nan())
            .collect())
    }

    /// The alerting rules.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>> {
        let data = self.api("rules", &[])?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let rules = rules.flatten().map(|rule| Rule {
            name: text(rule, "name"),
            expression: text(rule, "query"),
            state: text(rule, "state"),
            error: (rule["health"] != "ok").then(|| rule.to_string()),
        });
        Ok(rules.collect())
    }

    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let answer = self.get(&format!("/api/v1/{path}"), parameters)?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status"] == "success", "{parameters:?}: {answer}");
        Ok(answer["data"].clone())
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut command = self.netns.command("curl");
        command.args(["-sS", "-G", "--max-time", "20"]);
        for (key, value) in parameters {
            command.args(["--data-urlencode", &format!("{key}={value}")]);
        }
        // The answer to a query that is wrong says so in its body.
        command.args(["-w", "\n%{http_code}", &format!("http://{LISTEN}{path}")]);
        let output = command.output().context("cannot run curl")?;
        ensure!(output.status.success(), "curl: {output:?}");
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').context("curl prints the status")?;
        ensure!(
            ["200", "400", "422"].contains(&status),
            "{path}: status {status}: {body}"
        );
        Ok(body.to_owned())
    }
}
