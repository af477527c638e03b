//! Prefixes CSV cells that a spreadsheet would run as a formula with an apostrophe, as OWASP recommends against CSV
//! injection. Reading removes it, so that importing an export yields the same values.

/// First characters that make spreadsheets read a cell as a formula, or split it.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Whether the value, after any apostrophes, begins like a formula.
fn is_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(FORMULA)
}

/// Returns the cell to write for a value.
pub fn neutralised(value: String) -> String {
    if is_formula(&value) { format!("'{value}") } else { value }
}

/// Returns the value of a cell that [`neutralised`] wrote.
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
