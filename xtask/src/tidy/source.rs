//! What Rust files must not contain, where.

use super::Problem;

/// Lines of a file of the data path: what does not fit on a few screens is two things.
const DATA_PATH_LINES_MAX: usize = 400;

/// The directories whose files [`DATA_PATH_LINES_MAX`] is for.
const DATA_PATH: [&str; 2] = ["xdp-common/src/", "xdp-ebpf/src/"];

/// Modules of the data path that put the stages in order.
const SEQUENCES: [&str; 3] = ["main", "judge", "splice::mod"];

/// Modules of the data path that decide nothing about a packet: every stage may use them. All
/// others are stages.
const NO_STAGES: [&str; 13] = [
    "case",
    "clock",
    "control",
    "extensions",
    "handover",
    "log",
    "loops",
    "options",
    "packet",
    "payload",
    "scratch",
    "socket",
    "stats",
];

/// A file.
pub(super) struct Source {
    /// From the workspace's root, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

/// Words that have no place in some files.
struct Forbidden {
    words: &'static [&'static str],
    /// Beginnings of paths.
    within: &'static [&'static str],
    /// Beginnings of paths that are an exception.
    except: &'static [&'static str],
    why: &'static str,
}

const FORBIDDEN: [Forbidden; 7] = [
    Forbidden {
        words: &["std::", "alloc::", "extern crate std"],
        within: &["xdp-common/src/"],
        except: &[],
        why: "xdp-common does no I/O and runs in the kernel: core only",
    },
    Forbidden {
        words: &[
            "Instant::now",
            "SystemTime",
            "elapsed()",
            "tokio::",
            "std::net::Tcp",
            "std::fs",
        ],
        within: &["xdp-user/src/engine/", "xdp-user/src/engine.rs"],
        except: &[],
        why: "the engine reads no clock and does no I/O: `now` is passed in",
    },
    Forbidden {
        words: &["Mutex", "RwLock", "RefCell"],
        within: &["xdp-user/src/engine/"],
        except: &[],
        why: "the engine holds no lock: who owns it, calls it",
    },
    Forbidden {
        words: &["data_end", "ctx.data()"],
        within: &["xdp-ebpf/src/"],
        except: &["xdp-ebpf/src/packet.rs", "xdp-ebpf/src/lab/frame.rs"],
        why: "only packet.rs (in the lab: frame.rs) holds packet pointers",
    },
    Forbidden {
        words: &["xdp_action", "TC_ACT_"],
        within: &["xdp-ebpf/src/"],
        except: &["xdp-ebpf/src/main.rs", "xdp-ebpf/src/lab/"],
        why: "only main.rs turns a verdict into the kernel's action",
    },
    Forbidden {
        words: &["XDP_ABORTED"],
        within: &["xdp-ebpf/src/"],
        except: &["xdp-ebpf/src/lab/"],
        why: "every packet has a verdict; aborting is for no one to explain",
    },
    Forbidden {
        words: &["aya_ebpf", "aya_log_ebpf"],
        within: &[""],
        except: &["xdp-ebpf/", "xtask/"],
        why: "only xdp-ebpf is built for the kernel",
    },
];

/// Checks all files.
pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let stages: Vec<_> = sources
        .iter()
        .filter_map(|source| stage(&source.path))
        .collect();
    let mut problems = Vec::new();
    for source in sources {
        problems.extend(forbidden_words(source));
        problems.extend(length(source));
        problems.extend(sibling_stages(source, &stages));
    }
    problems
}

fn forbidden_words(source: &Source) -> Vec<Problem> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| source.path.starts_with(p));
    let mut problems = Vec::new();
    for rule in FORBIDDEN
        .iter()
        .filter(|rule| starts(rule.within) && !starts(rule.except))
    {
        for (line, code) in source.code() {
            for word in rule.words.iter().filter(|word| contains_word(code, word)) {
                let message = format!("`{word}`: {}", rule.why);
                problems.push(Problem {
                    path: source.path.clone(),
                    line,
                    message,
                });
            }
        }
    }
    problems
}

fn length(source: &Source) -> Option<Problem> {
    let lines = source.text.lines().count();
    let in_data_path = DATA_PATH.iter().any(|dir| source.path.starts_with(dir));
    (in_data_path && lines > DATA_PATH_LINES_MAX).then(|| Problem {
        path: source.path.clone(),
        line: 0,
        message: format!("{lines} lines; in the data path at most {DATA_PATH_LINES_MAX}"),
    })
}

fn sibling_stages(source: &Source, stages: &[String]) -> Vec<Problem> {
    let Some(own) = stage(&source.path) else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    let mut inside_list = false;
    for (line, code) in source.code() {
        inside_list |= code.contains("crate::{");
        for name in stages.iter().filter(|&name| *name != own) {
            let listed = inside_list && contains_word(code, name);
            let last = name.rsplit("::").next().unwrap_or_default();
            let beside = own.contains("::") && contains_word(code, &format!("super::{last}"));
            if listed || beside || contains_word(code, &format!("crate::{name}")) {
                let message =
                    format!("stage {own} uses stage {name}: only {SEQUENCES:?} join stages");
                problems.push(Problem {
                    path: source.path.clone(),
                    line,
                    message,
                });
            }
        }
        inside_list &= !code.contains(';');
    }
    problems
}

/// The stage of the data path that a file is, if it is one.
fn stage(path: &str) -> Option<String> {
    let name = path.strip_prefix("xdp-ebpf/src/")?.strip_suffix(".rs")?;
    let name = name.replace('/', "::");
    let excluded = name.starts_with("lab::")
        || SEQUENCES.contains(&name.as_str())
        || NO_STAGES.contains(&name.as_str());
    (!excluded).then_some(name)
}

impl Source {
    /// Numbered lines without comments, up to the tests, which stand last and may do what they
    /// like. Files of tests have none.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let end = if is_test_file {
            0
        } else {
            self.first_line_of_tests()
        };
        let lines = self.text.lines().take(end).enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    fn first_line_of_tests(&self) -> usize {
        let lines: Vec<_> = self.text.lines().collect();
        let starts_tests = |pair: &[&str]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        };
        lines
            .windows(2)
            .position(starts_tests)
            .unwrap_or(lines.len())
    }
}

/// Whether `word` occurs in `code`, not as a part of a longer name.
pub(super) fn contains_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(start, found)| {
        let before = code[..start].chars().next_back();
        let after = code[start + found.len()..].chars().next();
        let open_end = !found.ends_with(part_of_name) || found.ends_with('_');
        !before.is_some_and(part_of_name) && (open_end || !after.is_some_and(part_of_name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    fn problems(path: &str, text: &str) -> Vec<Problem> {
        check(&[source(path, text)])
    }

    #[test]
    fn common_is_core_only_outside_its_tests() {
        let found = problems(
            "xdp-common/src/wire/tcp.rs",
            "use core::fmt;\nuse std::fs;\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].line, found[0].path.as_str()),
            (2, "xdp-common/src/wire/tcp.rs")
        );
        let fine = "// std::fs\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(problems("xdp-common/src/wire/tcp.rs", fine), []);
        assert_eq!(
            problems("xdp-common/src/cookie/tests.rs", "use std::fs;\n"),
            []
        );
        assert_eq!(problems("xdp-user/src/config.rs", "use std::fs;\n"), []);
    }

    #[test]
    fn a_test_module_in_another_file_does_not_end_the_code() {
        let text = "#[cfg(test)]\nmod tests;\n\nuse std::fs;\n";
        assert_eq!(problems("xdp-common/src/cookie.rs", text).len(), 1);
    }

    #[test]
    fn the_engine_reads_no_clock() {
        let text = "let now = Instant::now();\nlet then: Instant = now;\n";
        assert_eq!(problems("xdp-user/src/engine/reaper.rs", text).len(), 1);
        assert_eq!(problems("xdp-user/src/main.rs", text), []);
    }

    #[test]
    fn the_engine_holds_no_lock() {
        let text = "use std::sync::{Arc, Mutex};\n// A Mutex would do.\n";
        assert_eq!(problems("xdp-user/src/engine/limits.rs", text).len(), 1);
        assert_eq!(problems("xdp-user/src/proxy/runtime.rs", text), []);
    }

    #[test]
    fn packet_pointers_and_actions_have_one_place() {
        let text = "let end = ctx.data_end();\nxdp_action::XDP_PASS\nTC_ACT_OK\n";
        assert_eq!(problems("xdp-ebpf/src/parse.rs", text).len(), 3);
        assert_eq!(problems("xdp-ebpf/src/packet.rs", "ctx.data_end()"), []);
        assert_eq!(problems("xdp-ebpf/src/main.rs", "xdp_action::XDP_PASS"), []);
        assert_eq!(
            problems("xdp-ebpf/src/main.rs", "xdp_action::XDP_ABORTED").len(),
            1
        );
    }

    #[test]
    fn stages_do_not_import_each_other() {
        let sources = [
            source(
                "xdp-ebpf/src/parse.rs",
                "use crate::packet::Packet;\nuse crate::emit::reply;",
            ),
            source("xdp-ebpf/src/emit.rs", "use crate::stats;"),
            source("xdp-ebpf/src/stats.rs", ""),
            source("xdp-ebpf/src/main.rs", "use crate::{emit, parse};"),
        ];
        let found = check(&sources);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].path.as_str(), found[0].line),
            ("xdp-ebpf/src/parse.rs", 2)
        );
    }

    #[test]
    fn modules_that_are_no_stages_exist() {
        let data_path = concat!(env!("CARGO_MANIFEST_DIR"), "/../xdp-ebpf/src");
        for name in NO_STAGES {
            let file = format!("{data_path}/{name}.rs");
            assert!(std::path::Path::new(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn data_path_files_are_short() {
        let long = "\n".repeat(DATA_PATH_LINES_MAX + 1);
        assert_eq!(problems("xdp-ebpf/src/emit.rs", &long).len(), 1);
        assert_eq!(problems("xdp-ebpf/src/emit.rs", &long[1..]), []);
        assert_eq!(problems("xdp-user/src/config.rs", &long), []);
    }

    #[test]
    fn words_are_whole() {
        assert!(contains_word("use std::fs;", "std::"));
        assert!(!contains_word("use no_std::fs;", "std::"));
        assert!(!contains_word("data_ending()", "data_end"));
        assert!(contains_word("TC_ACT_OK", "TC_ACT_"));
        assert!(contains_word("now.elapsed()", "elapsed()"));
    }
}
