//! `--template`: creates and publishes the template through the API, as an operator does.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::Connection;
use super::mail;
use crate::bench::BenchError;
use crate::bench::error::Doing as _;
use crate::bench::options::Options;

/// The beginning of the HTML.
const HTML: &str = "<p>Hello {{ name }},</p>\n<p>Your number is {{ number }}.</p>\n<ul>\n\
    {% for item in items %}<li>{{ item.title }}: {{ item.price }}</li>\n{% endfor %}</ul>\n";

/// Publishes the template, if the options select one. `key` needs the scope `admin`.
pub(in crate::bench) async fn publish(api: SocketAddr, key: &str, options: &Options) -> Result<(), BenchError> {
    if !options.template {
        return Ok(());
    }
    let doing = "publish the template";
    let mut connection = Connection::open(api).await.doing("reach the service")?;
    let body = template(options.size as usize).to_string();
    let path = format!("/v1/templates/{}", mail::TEMPLATE);
    let mut status = connection.call("POST", "/v1/templates", key, &body).await.doing(doing)?;
    // An earlier run on this database has created it.
    if status == 409 {
        status = connection.call("PATCH", &path, key, &body).await.doing(doing)?;
    }
    if matches!(status, 200 | 201) {
        status = connection.call("POST", &format!("{path}/publish"), key, "").await.doing(doing)?;
    }
    match status {
        // 200: an earlier run has published the same template.
        200 | 201 => Ok(()),
        _ => Err(format!("{status} {}", String::from_utf8_lossy(connection.body()))).doing(doing),
    }
}

/// Returns the template, with HTML of about this size in bytes.
fn template(size: usize) -> Value {
    let text = mail::text(size.saturating_sub(HTML.len()));
    json!({
        "name": "Bench",
        "alias": mail::TEMPLATE,
        "subject": "Bench {{ number }}",
        "html": format!("{HTML}<p>{text}</p>\n"),
        "variables": [
            {"key": "name", "type": "string", "max_length": 100},
            {"key": "number", "type": "string"},
            {"key": "items", "type": "array"},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_has_about_the_size() {
        for (size, expected) in [(1, HTML.len()), (2_048, 2_048), (100_000, 100_000)] {
            let html = template(size)["html"].as_str().unwrap().len();
            assert!((expected..expected + 16).contains(&html), "{size}: {html}");
        }
    }
}
