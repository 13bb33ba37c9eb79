//! What `deploy/` holds for Prometheus and Grafana: rules and dashboard on their own, and against a
//! real levee that a real Prometheus scrapes.

mod dashboard;
mod expression;
mod files;
mod live;
mod prometheus;
mod rules;
