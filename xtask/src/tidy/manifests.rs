//! Which crate may depend on which.

use super::{Problem, source::Source};

/// The workspace's members, each before those that depend on it.
pub(super) const CRATES: [&str; 5] = ["xdp-common", "xdp-ebpf", "xdp-user", "xtask", "tests"];

/// What a crate must not depend on.
struct Forbidden {
    manifest: &'static str,
    crates: &'static [&'static str],
    why: &'static str,
}

const FORBIDDEN: [Forbidden; 4] = [
    Forbidden {
        manifest: "xdp-common/Cargo.toml",
        crates: &[
            "aya",
            "aya-ebpf",
            "xdp-user",
            "xdp-ebpf",
            "levee-tests",
            "tokio",
            "anyhow",
        ],
        why: "xdp-common is below all others and does no I/O",
    },
    Forbidden {
        manifest: "xdp-ebpf/Cargo.toml",
        crates: &["aya", "xdp-user", "levee-tests", "tokio", "anyhow"],
        why: "xdp-ebpf runs in the kernel",
    },
    Forbidden {
        manifest: "xdp-user/Cargo.toml",
        crates: &["aya-ebpf", "xdp-ebpf", "levee-tests", "xtask"],
        why: "the controller gets the programs as an object, and knows nothing of the lab",
    },
    Forbidden {
        manifest: "xtask/Cargo.toml",
        crates: &[
            "aya",
            "xdp-common",
            "xdp-ebpf",
            "xdp-user",
            "levee-tests",
            "tokio",
        ],
        why: "xtask is compiled before anything else and stays small",
    },
];

/// Checks the crates' manifests.
pub(super) fn check(manifests: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for manifest in manifests {
        for rule in FORBIDDEN
            .iter()
            .filter(|rule| rule.manifest == manifest.path)
        {
            for (line, name) in dependencies(&manifest.text) {
                if rule.crates.contains(&name) {
                    let message = format!("dependency on {name}: {}", rule.why);
                    problems.push(Problem {
                        path: manifest.path.clone(),
                        line,
                        message,
                    });
                }
            }
        }
    }
    problems
}

/// Line and name of each entry of `[dependencies]`.
fn dependencies(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with('#') {
                found.push((index + 1, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"x\"\n\n[dependencies]\n# why\naya.workspace = true\n\
                            serde = { workspace = true }\n\n[dev-dependencies]\nproptest = \"1\"\n";

    #[test]
    fn reads_the_dependencies_of_a_manifest() {
        assert_eq!(dependencies(MANIFEST), [(6, "aya"), (7, "serde")]);
    }

    #[test]
    fn dependencies_point_one_way() {
        let at = |path: &str| {
            check(&[Source {
                path: path.into(),
                text: MANIFEST.into(),
            }])
        };
        let found = at("xdp-common/Cargo.toml");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].message.starts_with("dependency on aya"),
            "{}",
            found[0]
        );
        assert_eq!(at("xdp-user/Cargo.toml"), []);
    }
}
