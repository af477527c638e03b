//! Parses the body of `POST /v1/privacy/erase`.

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::one_line;
use crate::accept::request::{Rejection, json};
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};

/// The fields of the body.
const FIELDS: &[&str] = &["address", "dry_run"];

/// A request to erase everything about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureRequest {
    /// The address.
    pub address: Address,
    /// Whether to count only.
    pub is_dry_run: bool,
}

/// Parses the request.
pub fn parse(body: &[u8]) -> Result<ErasureRequest, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let request = Fields::open(value, &at, FIELDS, &mut faults).and_then(|mut fields| {
        let address = fields.require("address", &mut faults).and_then(|node| {
            let at = node.at;
            let text = node.string(&mut faults)?;
            if !one_line(&text, &at, 1..=usize::MAX, &mut faults) {
                return None;
            }
            let parsed = text.trim_matches(' ').parse::<Address>();
            parsed.map_err(|error| at.fault(&mut faults, Code::InvalidAddress, error)).ok()
        });
        let is_dry_run = fields.take("dry_run").and_then(|node| node.boolean(&mut faults)).unwrap_or_default();
        Some(ErasureRequest { address: address?, is_dry_run })
    });
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_required_and_valid() {
        let request = parse(br#"{"address": " Ann@Example.test "}"#).unwrap();
        assert_eq!((request.address.to_string().as_str(), request.is_dry_run), ("Ann@example.test", false));
        assert!(parse(br#"{"address": "a@b.test", "dry_run": true}"#).is_ok_and(|request| request.is_dry_run));
        for (body, pointer, code) in [
            ("{}", "/address", "required"),
            (r#"{"address": 5}"#, "/address", "invalid_type"),
            (r#"{"address": "ann"}"#, "/address", "invalid_address"),
            (r#"{"address": "Ann <ann@example.test>"}"#, "/address", "invalid_address"),
            (r#"{"address": "a\n@b.test"}"#, "/address", "control_character"),
            (r#"{"address": "a@b.test", "dry_run": 1}"#, "/dry_run", "invalid_type"),
            (r#"{"address": "a@b.test", "all": true}"#, "/all", "unknown_field"),
        ] {
            let Err(Rejection::Invalid(faults)) = parse(body.as_bytes()) else { panic!("{body}") };
            let found: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
            assert_eq!(found, [(pointer, code)], "{body}");
        }
    }
}
