//! Finds levee's eBPF object, which `cargo xtask build` makes, for `src/loader.rs` to embed.
use std::{env, path::PathBuf, process::exit};

const DIR_VARIABLE: &str = "LEVEE_BPF_DIR";

fn main() {
    println!("cargo::rerun-if-env-changed={DIR_VARIABLE}");
    let dir = env::var_os(DIR_VARIABLE).map_or_else(default_dir, PathBuf::from);
    let object = dir.join("levee.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=levee's eBPF object {} does not exist: run `cargo xtask build`, or point \
             {DIR_VARIABLE} at the directory that holds levee.o",
            object.display()
        );
        exit(1);
    }
    println!("cargo::rustc-env=LEVEE_OBJECT={}", object.display());
}

fn default_dir() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR");
    PathBuf::from(manifest).join("../target/bpf")
}
