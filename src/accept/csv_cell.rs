//! Cells of CSV that a spreadsheet would run as a formula get an apostrophe in front, as OWASP advises (CSV injection); reading
//! takes it away again, so that an export is imported to the same values.

/// First characters by which spreadsheets recognise a formula, or separate cells from one.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Whether the value, behind any apostrophes, begins like a formula.
fn is_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(FORMULA)
}

/// The value as it is written.
pub fn neutralised(value: String) -> String {
    if is_formula(&value) { format!("'{value}") } else { value }
}

/// The value that was written.
pub fn restored(cell: String) -> String {
    match cell.strip_prefix('\'') {
        Some(value) if is_formula(value) => value.to_owned(),
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formulas_are_neutralised_and_nothing_else() {
        for (value, cell) in
            [("=1+1", "'=1+1"), ("+a@b.test", "'+a@b.test"), ("'=1", "''=1"), ("a=1", "a=1"), ("'", "'")]
        {
            assert_eq!(neutralised(value.into()), cell);
        }
    }

    proptest! {
        #[test]
        fn every_value_is_restored(value in "['=+@a\t-]{0,6}") {
            prop_assert_eq!(restored(neutralised(value.clone())), value);
        }
    }
}
