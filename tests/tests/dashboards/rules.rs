//! The alerting rules, as `promtool` sees them.

use std::{fs, process::Command};

use levee_tests::scratch;
use serde_json::json;

use crate::files;

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(files::directory())
        .output()
        .expect("promtool, of the Debian package prometheus, is installed");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
}

/// Fails unless all of these are PromQL.
pub(crate) fn check_expressions(expressions: impl Iterator<Item = String>) {
    // JSON is YAML.
    let rules: Vec<_> = expressions
        .enumerate()
        .map(|(number, expr)| json!({ "record": format!("query:{number}"), "expr": expr }))
        .collect();
    let file = json!({ "groups": [{ "name": "queries", "rules": rules }] });
    let directory = scratch::directory().unwrap();
    let path = directory.path().join("queries.rules.yml");
    fs::write(&path, file.to_string()).unwrap();
    promtool(&["check", "rules", &path.display().to_string()]);
}

/// What stands behind `key` in the lines of a file.
fn values<'t>(text: &'t str, key: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix(key).map(str::trim)
    })
}

#[test]
fn rules_and_configuration_are_sound() {
    promtool(&["check", "rules", "levee.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn rules_fire_when_they_should() {
    promtool(&["test", "rules", "levee.rules.test.yml"]);
}

#[test]
fn every_alert_has_a_test_in_which_it_fires() {
    let (rules, tests) = (
        files::read("levee.rules.yml"),
        files::read("levee.rules.test.yml"),
    );
    let fired: Vec<_> = tests
        .split("alertname:")
        .skip(1)
        .filter(|case| case.contains("exp_labels:"))
        .filter_map(|case| case.lines().next().map(str::trim))
        .collect();
    let alerts: Vec<_> = values(&rules, "alert:").collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(fired.contains(&alert), "{alert} fires in no test");
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = files::read("levee.rules.yml");
    let alerts = rules.split("- alert:").skip(1);
    for alert in alerts {
        for part in ["severity:", "summary:", "description:"] {
            assert!(alert.contains(part), "no {part} in{alert}");
        }
    }
}
