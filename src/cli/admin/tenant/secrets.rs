//! Secrets in rows that move: a database has them encrypted with the `secret_key` of its cell, and the file, which is
//! encrypted as a whole, has them in plain text.

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use uuid::Uuid;

use crate::app::WithHint as _;
use crate::db::tenants::moving::MovedTable;
use crate::domain::id::{EndpointId, InboundRouteId, TenantId};
use crate::domain::inbound::relay::RelayTarget;
use crate::domain::installation::keyring::Keyring;
use crate::domain::key::hex;
use crate::domain::sender_domain::dkim;
use crate::domain::webhook::endpoint::StoredSecret;

/// The columns with secrets of a webhook endpoint.
const WEBHOOK_SECRETS: [&str; 2] = ["secret", "old_secret"];
/// The column of an inbound route with a URL that may have a password.
const RELAY_URL: &str = "relay_url";

/// Decrypts the secrets of a row with the keyring of this cell.
pub(super) fn decrypt(table: MovedTable, row: &mut Value, keyring: Option<&Keyring>) -> anyhow::Result<()> {
    match table {
        MovedTable::DkimKeys => {
            let key = DkimKey::from_row(row)?;
            let keyring = keyring
                .ok_or_else(|| anyhow!("the DKIM keys of {} are encrypted, and secret_key is not set", key.domain))
                .with_hint("set POSTRIDER_SECRET_KEY as `serve` has it")?;
            let private = dkim::open_private(keyring, key.tenant, &key.domain, &key.selector, &bytes(row, "sealed")?)
                .with_context(|| format!("cannot decrypt the DKIM key {} of {}", key.selector, key.domain))?;
            set_bytes(row, "sealed", &private);
        }
        MovedTable::WebhookEndpoints => {
            let endpoint = EndpointId(uuid(row, "id")?);
            for column in present(row) {
                let stored = StoredSecret::new(bytes(row, column)?);
                let secret = stored.open(keyring, endpoint).with_context(|| format!("webhook endpoint {endpoint}"))?;
                set_bytes(row, column, &secret);
            }
        }
        MovedTable::InboundRoutes if has(row, RELAY_URL) => {
            let route = InboundRouteId(uuid(row, "id")?);
            let target = RelayTarget::from_stored(&bytes(row, RELAY_URL)?, keyring, route)
                .with_context(|| format!("cannot read the URL of the server of the inbound route {route}"))?;
            set_bytes(row, RELAY_URL, target.expose().as_bytes());
        }
        _ => {}
    }
    Ok(())
}

/// Encrypts the secrets of a row with the keyring of this cell. Secrets of webhook endpoints stay in plain text without a
/// keyring, or if `is_webhook_sealed` is not set, because a running worker of an earlier version could not read them.
pub(super) fn encrypt(
    table: MovedTable,
    row: &mut Value,
    keyring: Option<&Keyring>,
    is_webhook_sealed: bool,
) -> anyhow::Result<()> {
    match table {
        MovedTable::DkimKeys => {
            let key = DkimKey::from_row(row)?;
            let keyring = keyring
                .ok_or_else(|| {
                    anyhow!("the tenant has DKIM keys, which are stored encrypted, and secret_key is not set")
                })
                .with_hint("set POSTRIDER_SECRET_KEY as `serve` has it")?;
            let private = bytes(row, "sealed")?;
            let sealed = dkim::seal_private(keyring, key.tenant, &key.domain, &key.selector, &private)?;
            set_bytes(row, "sealed", &sealed);
        }
        MovedTable::WebhookEndpoints => {
            let endpoint = EndpointId(uuid(row, "id")?);
            let keyring = keyring.filter(|_| is_webhook_sealed);
            for column in present(row) {
                let stored = StoredSecret::seal(&bytes(row, column)?, keyring, endpoint)?;
                set_bytes(row, column, stored.bytes());
            }
        }
        MovedTable::InboundRoutes if has(row, RELAY_URL) => {
            let route = InboundRouteId(uuid(row, "id")?);
            let url = String::from_utf8(bytes(row, RELAY_URL)?)?;
            let sealed = RelayTarget::parse(&url).and_then(|target| target.seal(keyring, route));
            let sealed = sealed.with_context(|| format!("the URL of the server of the inbound route {route}"))?;
            set_bytes(row, RELAY_URL, &sealed);
        }
        _ => {}
    }
    Ok(())
}

/// What a DKIM key is bound to.
struct DkimKey {
    tenant: TenantId,
    domain: String,
    selector: String,
}

impl DkimKey {
    fn from_row(row: &Value) -> anyhow::Result<Self> {
        let tenant = TenantId(uuid(row, "tenant_id")?);
        Ok(Self { tenant, domain: text(row, "domain")?.to_owned(), selector: text(row, "selector")?.to_owned() })
    }
}

/// Returns the columns of a webhook endpoint that have a secret.
fn present(row: &Value) -> impl Iterator<Item = &'static str> + use<> {
    let columns = WEBHOOK_SECRETS.map(|column| has(row, column).then_some(column));
    columns.into_iter().flatten()
}

/// Returns whether a field of a row has a value.
fn has(row: &Value, field: &str) -> bool {
    row.get(field).is_some_and(|value| !value.is_null())
}

/// Returns a field of a row.
pub(super) fn text<'a>(row: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    row.get(field).and_then(Value::as_str).ok_or_else(|| anyhow!("a row has no text in the field `{field}`"))
}

/// Returns a field with a UUID.
pub(super) fn uuid(row: &Value, field: &str) -> anyhow::Result<Uuid> {
    text(row, field)?.parse().with_context(|| format!("the field `{field}` of a row"))
}

/// Returns a field with bytes, as Postgres writes them: `\x` and hexadecimal digits.
fn bytes(row: &Value, field: &str) -> anyhow::Result<Vec<u8>> {
    let digits = text(row, field)?.strip_prefix("\\x").unwrap_or_default().as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    match pairs.collect::<Option<Vec<u8>>>() {
        Some(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => bail!("the field `{field}` of a row has no bytes"),
    }
}

fn set_bytes(row: &mut Value, field: &str, bytes: &[u8]) {
    if let Some(value) = row.get_mut(field) {
        *value = Value::from(format!("\\x{}", hex(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn relay_of_a_route_is_encrypted_for_the_other_cell() {
        let (old, new) = (Keyring::new("one", []), Keyring::new("two", []));
        let route = InboundRouteId(Uuid::from_u128(7));
        let target = RelayTarget::parse("smtp://u:hunter2@mail.acme.test").unwrap();
        let mut row = json!({"id": route.0, "relay_url": ""});
        set_bytes(&mut row, RELAY_URL, &target.seal(Some(&old), route).unwrap());
        decrypt(MovedTable::InboundRoutes, &mut row, Some(&old)).unwrap();
        assert_eq!(bytes(&row, RELAY_URL).unwrap(), target.expose().as_bytes());
        let mut without = row.clone();
        assert!(encrypt(MovedTable::InboundRoutes, &mut without, None, true).is_err(), "it has a password");
        encrypt(MovedTable::InboundRoutes, &mut row, Some(&new), true).unwrap();
        let moved = RelayTarget::open(&bytes(&row, RELAY_URL).unwrap(), Some(&new), route);
        assert_eq!(moved, Ok(target.relay));
        let mut stored = json!({"id": route.0, "relay_url": null});
        decrypt(MovedTable::InboundRoutes, &mut stored, None).unwrap();
        assert_eq!(stored[RELAY_URL], Value::Null);
    }
}
