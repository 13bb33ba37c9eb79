//! The dashboard as a file.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{expression, files, rules};

/// Rows that the dashboard has, in order.
const ROWS: [&str; 7] = [
    "Overview",
    "Handshake and floods",
    "Connections and reaping",
    "Backends",
    "Spliced connections",
    "Data path",
    "Controller",
];

/// A query of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) panel: String,
    pub(crate) expression: String,
    pub(crate) legend: String,
}

pub(crate) fn load() -> Value {
    serde_json::from_str(&files::read("grafana/levee.json")).expect("the dashboard is JSON")
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// What Grafana would ask, with every variable at "All" and rates over `rate_interval`.
pub(crate) fn substituted(expression: &str, rate_interval: &str) -> String {
    let all = ["$instance", "$service", "$interface"];
    all.into_iter()
        .fold(expression.to_owned(), |e, name| e.replace(name, ".*"))
        .replace("$__rate_interval", rate_interval)
}

/// All panels, those within rows included.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = list(dashboard, "panels").iter();
    all.flat_map(|panel| std::iter::once(panel).chain(list(panel, "panels")))
        .collect()
}

/// All queries of panels.
pub(crate) fn queries(dashboard: &Value) -> Vec<Query> {
    let of_panel = |panel: &&Value| {
        let targets = list(panel, "targets").to_vec();
        let title = text(panel, "title").to_owned();
        targets.into_iter().map(move |target| Query {
            panel: title.clone(),
            expression: text(&target, "expr").to_owned(),
            legend: text(&target, "legendFormat").to_owned(),
        })
    };
    panels(dashboard).iter().flat_map(of_panel).collect()
}

/// Variables that are values of a label: name, metric with selector, and label.
pub(crate) fn variables(dashboard: &Value) -> Vec<(String, String, String)> {
    let variables = list(&dashboard["templating"], "list").iter();
    variables
        .filter(|variable| text(variable, "type") == "query")
        .map(|variable| {
            let query = text(&variable["query"], "query");
            let inside = query.strip_prefix("label_values(");
            let inside = inside.and_then(|rest| rest.strip_suffix(')'));
            let (metric, label) = inside.and_then(|i| i.rsplit_once(", ")).expect(query);
            (text(variable, "name").into(), metric.into(), label.into())
        })
        .collect()
}

#[test]
fn it_can_be_imported_again_and_again() {
    let dashboard = load();
    assert_eq!(text(&dashboard, "uid"), "levee");
    assert!(dashboard["id"].is_null(), "an id belongs to one Grafana");
    assert!(list(&dashboard, "tags").contains(&"levee".into()));
    let ids: Vec<_> = panels(&dashboard)
        .iter()
        .map(|p| p["id"].as_u64())
        .collect();
    let distinct: HashSet<_> = ids.iter().flatten().collect();
    assert_eq!(
        distinct.len(),
        ids.len(),
        "panels without an id of their own"
    );
}

#[test]
fn its_rows_are_there() {
    let dashboard = load();
    let rows: Vec<_> = panels(&dashboard)
        .into_iter()
        .filter(|panel| text(panel, "type") == "row")
        .map(|panel| text(panel, "title"))
        .collect();
    assert_eq!(rows, ROWS);
}

#[test]
fn a_panel_warns_of_what_node_exporter_cannot_see() {
    let dashboard = load();
    let texts = panels(&dashboard)
        .into_iter()
        .filter(|panel| text(panel, "type") == "text")
        .map(|panel| text(&panel["options"], "content"));
    assert_eq!(
        texts.filter(|text| text.contains("node_exporter")).count(),
        1
    );
}

#[test]
fn every_query_goes_to_the_chosen_data_source() {
    let dashboard = load();
    let sources = panels(&dashboard)
        .into_iter()
        .flat_map(|panel| list(panel, "targets").iter().chain([panel]))
        .chain(list(&dashboard["templating"], "list"))
        .filter_map(|value| value.get("datasource"));
    for source in sources {
        assert_eq!(source["uid"], "${datasource}", "{source}");
    }
    let names: Vec<_> = list(&dashboard["templating"], "list")
        .iter()
        .map(|variable| text(variable, "name"))
        .collect();
    assert_eq!(names, ["datasource", "instance", "service", "interface"]);
}

#[test]
fn panels_explain_themselves_and_do_not_overlap() {
    let dashboard = load();
    let mut cells = HashMap::new();
    for panel in panels(&dashboard) {
        let (kind, title) = (text(panel, "type"), text(panel, "title"));
        let shown = !matches!(kind, "row" | "text");
        assert!(!shown || !text(panel, "description").is_empty(), "{title}");
        assert!(!shown || !list(panel, "targets").is_empty(), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a position");
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                let other = cells.insert((x, y), title);
                assert_eq!(other, None, "{title} covers another panel");
            }
        }
    }
}

/// A legend that names a label the query sums away shows nothing.
#[test]
fn legends_name_labels_that_queries_keep() {
    for query in queries(&load()) {
        for label in query
            .legend
            .split("{{")
            .skip(1)
            .filter_map(|l| l.split_once("}}"))
        {
            let kept = query.expression.split(" by (").skip(1).any(|by| {
                let labels = by.split(')').next().unwrap_or_default();
                labels.split(", ").any(|name| name == label.0)
            });
            assert!(
                kept,
                "{}: {} is not in {}",
                query.panel, label.0, query.expression
            );
        }
    }
}

#[test]
fn every_query_is_promql_and_asks_for_something_of_levee_s() {
    let queries = queries(&load());
    for query in &queries {
        let metrics = expression::metrics(&query.expression);
        assert!(!metrics.is_empty(), "{}: {}", query.panel, query.expression);
    }
    rules::check_expressions(queries.iter().map(|q| substituted(&q.expression, "1m")));
}

#[test]
fn variables_are_labels_of_levee_s_metrics() {
    for (name, metric, label) in variables(&load()) {
        assert_eq!(name, label);
        assert!(!expression::metrics(&metric).is_empty(), "{name}: {metric}");
    }
}
