//! What a failure of the object store says in the log, and in `doctor`.

/// Maximum length of a failure.
const MAX_LENGTH: usize = 600;

/// Returns whether the bucket does not exist.
pub(super) fn is_about_bucket(failure: &str) -> bool {
    failure.contains("NoSuchBucket")
}

/// Returns a failure in one line. Failures quote responses. Of one in the format of S3, only its code and its message are kept: services
/// repeat the headers and the session token of the request in other elements.
pub(super) fn summary(failure: &str) -> String {
    let kept = match (failure.find('<'), element(failure, "Code")) {
        (Some(start), Some(code)) => {
            let message = element(failure, "Message").unwrap_or_default();
            format!("{}{code}: {message}", &failure[..start])
        }
        _ => failure.to_owned(),
    };
    let line: String = kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim_end_matches([':', ' ']).chars().take(MAX_LENGTH).collect()
}

/// Returns the text of the first element with this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split('<').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_bucket_is_no_missing_object() {
        assert!(is_about_bucket("Server returned non-2xx status code: 404: <Error><Code>NoSuchBucket</Code>"));
        assert!(!is_about_bucket("Server returned non-2xx status code: 404: <Error><Code>NoSuchKey</Code>"));
    }

    #[test]
    fn failure_is_one_short_line() {
        assert_eq!(summary("a\nb\r"), "a b");
        assert_eq!(summary(&"é".repeat(1_000)).chars().count(), MAX_LENGTH);
    }

    #[test]
    fn quoted_response_has_no_token() {
        let response = "Server returned error: 403: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>Check your key.\
                        </Message><CanonicalRequest>PUT\nx-amz-security-token:FwoGhidden</CanonicalRequest><Token-0>FwoGhidden</Token-0></Error>";
        assert_eq!(summary(response), "Server returned error: 403: SignatureDoesNotMatch: Check your key.");
        assert_eq!(summary("403: <Error><Code>SlowDown</Code></Error>"), "403: SlowDown");
    }
}
