//! PromQL as far as the tests have to understand it.

/// Comparison operators, the longer ones first.
const COMPARISONS: [&str; 6] = ["==", "!=", ">=", "<=", ">", "<"];

/// What an alert compares: both sides of the one comparison that is outside of all brackets.
pub(crate) fn sides(expression: &str) -> (&str, &str) {
    let mut found = None;
    for (at, depth) in depths(expression) {
        let rest = &expression[at..];
        let operator = COMPARISONS.into_iter().find(|o| rest.starts_with(o));
        if let Some(operator) = operator.filter(|_| depth == 0)
            && found.is_none_or(|(before, len)| at >= before + len)
        {
            assert_eq!(found, None, "two comparisons: {expression}");
            found = Some((at, operator.len()));
        }
    }
    let (at, len) = found.unwrap_or_else(|| panic!("no comparison: {expression}"));
    (expression[..at].trim(), expression[at + len..].trim())
}

/// Names of metrics of levee's in an expression, without the suffixes of histograms.
pub(crate) fn metrics(expression: &str) -> Vec<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !word(c));
    let names = words.filter(|name| name.starts_with("levee_"));
    names
        .map(|name| {
            let suffix = ["_bucket", "_sum", "_count"].into_iter();
            suffix.fold(name, |name, suffix| {
                name.strip_suffix(suffix).unwrap_or(name)
            })
        })
        .collect()
}

/// Positions of characters outside of strings, with the number of brackets they are in.
fn depths(expression: &str) -> impl Iterator<Item = (usize, usize)> {
    let (mut depth, mut quoted) = (0, false);
    expression.char_indices().filter_map(move |(at, c)| {
        match c {
            '"' => quoted = !quoted,
            '(' | '{' | '[' if !quoted => depth += 1,
            ')' | '}' | ']' if !quoted => depth -= 1,
            _ => {}
        }
        (!quoted).then_some((at, depth))
    })
}

#[test]
fn an_alert_is_split_at_its_comparison() {
    assert_eq!(sides("up == 0"), ("up", "0"));
    assert_eq!(sides("a{b!=\"c\"} >= 0.5"), ("a{b!=\"c\"}", "0.5"));
    assert_eq!(sides("a / (b > 0) > 0.8 * c"), ("a / (b > 0)", "0.8 * c"));
}

#[test]
fn metrics_are_found_without_their_suffixes() {
    let expression = "sum by (levee) (rate(levee_x_seconds_bucket{y=\"up\"}[5m])) / levee_z_total";
    assert_eq!(metrics(expression), ["levee_x_seconds", "levee_z_total"]);
}
