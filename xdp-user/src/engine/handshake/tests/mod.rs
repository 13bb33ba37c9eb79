//! The engine against a world that does what it is told and writes everything down.

mod clients;
mod ends;
mod numbers;
mod peers;
mod reuse;
mod sources;
mod targets;
mod world;
