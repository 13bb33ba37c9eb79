//! Every verdict is reached by some code, and every label is one verdict's.

use super::{
    Problem,
    source::{Source, contains_word},
};

/// Where the verdicts are defined.
const DEFINITION: &str = "xdp-common/src/verdict.rs";

/// Where they are reached.
const DATA_PATH: [&str; 2] = ["xdp-common/src/", "xdp-ebpf/src/"];

/// A row of the definition: `Name = 3 Drop "label",`.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    line: usize,
    name: &'a str,
    label: &'a str,
}

/// Checks the definition against its users.
pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let Some(definition) = sources.iter().find(|source| source.path == DEFINITION) else {
        return vec![problem(
            0,
            "the definition of the verdicts is missing".into(),
        )];
    };
    let rows: Vec<_> = definition
        .code()
        .filter_map(|(line, code)| parse(line, code))
        .collect();
    if rows.is_empty() {
        return vec![problem(
            0,
            "no verdict found; has the form of the table changed?".into(),
        )];
    }
    let mut problems = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if !sources.iter().any(|source| reaches(source, row.name)) {
            problems.push(problem(row.line, format!("no code reaches `{}`", row.name)));
        }
        if rows[..index]
            .iter()
            .any(|earlier| earlier.label == row.label)
        {
            problems.push(problem(
                row.line,
                format!("the label {:?} is taken", row.label),
            ));
        }
    }
    problems
}

fn problem(line: usize, message: String) -> Problem {
    Problem {
        path: DEFINITION.into(),
        line,
        message,
    }
}

fn reaches(source: &Source, name: &str) -> bool {
    source.path != DEFINITION
        && DATA_PATH.iter().any(|dir| source.path.starts_with(dir))
        && source
            .code()
            .any(|(_, code)| contains_word(code, &format!("Verdict::{name}")))
}

fn parse(line: usize, code: &str) -> Option<Row<'_>> {
    let (name, rest) = code.trim().split_once(" = ")?;
    let (number, rest) = rest.split_once(' ')?;
    number.parse::<u8>().ok()?;
    let (_action, label) = rest.split_once(' ')?;
    let label = label.strip_prefix('"')?.strip_suffix("\",")?;
    Some(Row { line, name, label })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "verdicts! {\n    /// Not TCP.\n    NotTcp = 1 Pass \"not_tcp\",\n    \
                         FlagsNull = 2 Drop \"flags_null\",\n}\nAdmitted = 24,\n";

    fn check_with(table: &str, user: &str) -> Vec<String> {
        let source = |path: &str, text: &str| Source {
            path: path.into(),
            text: text.into(),
        };
        check(&[
            source(DEFINITION, table),
            source("xdp-ebpf/src/parse.rs", user),
        ])
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    #[test]
    fn reads_the_table() {
        assert_eq!(
            parse(3, "    NotTcp = 1 Pass \"not_tcp\","),
            Some(Row {
                line: 3,
                name: "NotTcp",
                label: "not_tcp"
            })
        );
        assert_eq!(parse(1, "Admitted = 24,"), None);
        assert_eq!(parse(1, "let x = 1;"), None);
    }

    #[test]
    fn every_verdict_is_reached() {
        let user = "Verdict::NotTcp; Verdict::FlagsNull";
        assert_eq!(check_with(TABLE, user), Vec::<String>::new());
        let found = check_with(TABLE, "Verdict::NotTcp; Verdict::FlagsNullish");
        assert_eq!(
            found,
            ["xdp-common/src/verdict.rs:4: no code reaches `FlagsNull`"]
        );
    }

    #[test]
    fn labels_are_unique() {
        let table = TABLE.replace("flags_null", "not_tcp");
        let found = check_with(&table, "Verdict::NotTcp; Verdict::FlagsNull");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].ends_with("the label \"not_tcp\" is taken"),
            "{found:?}"
        );
    }

    #[test]
    fn an_empty_definition_is_a_problem() {
        assert_eq!(check_with("", "").len(), 1);
    }
}
