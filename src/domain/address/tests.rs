//! Valid and invalid addresses and mailboxes, their errors, and round trips.

use proptest::prelude::*;

use super::{Address, Mailbox};

fn refusal(text: &str) -> String {
    text.parse::<Address>().expect_err(text).0
}

#[test]
fn valid_addresses_are_parsed() {
    for (text, local, domain) in [
        ("ann@example.test", "ann", "example.test"),
        ("Ann.Lee+x@Example.TEST", "Ann.Lee+x", "example.test"),
        ("!#$%&'*+-/=?^_`{|}~@a.b", "!#$%&'*+-/=?^_`{|}~", "a.b"),
        ("root@localhost", "root", "localhost"),
        ("\"john doe\"@example.test", "\"john doe\"", "example.test"),
        (r#""a\"b@c"@example.test"#, r#""a\"b@c""#, "example.test"),
        ("用户@例え.test", "用户", "xn--r8jz45g.test"),
        ("ann@BÜCHER.example", "ann", "xn--bcher-kva.example"),
        ("ann@xn--bcher-kva.example", "ann", "xn--bcher-kva.example"),
        ("ann@r3---sn-x.example", "ann", "r3---sn-x.example"),
        ("ann@例え。test", "ann", "xn--r8jz45g.test"),
        ("ann@[192.0.2.1]", "ann", "[192.0.2.1]"),
        ("ann@[ipv6:2001:DB8:0::1]", "ann", "[IPv6:2001:db8::1]"),
        ("ann@123.example", "ann", "123.example"),
    ] {
        let address: Address = text.parse().expect(text);
        assert_eq!((address.local(), address.domain()), (local, domain), "{text}");
    }
}

#[test]
fn invalid_address_is_rejected_with_the_reason() {
    let long_local = format!("{}@example.test", "a".repeat(65));
    let long_label = format!("ann@{}.test", "a".repeat(64));
    let long = format!("ann@{}test", "a234567890.".repeat(23));
    let endless = format!("ann@{}", "ü".repeat(100_000));
    for (text, words) in [
        ("", "empty"),
        ("ann", "must contain an @"),
        ("@example.test", "before the @ is empty"),
        ("ann@", "after the @ is empty"),
        ("a@b@example.test", "more than one @"),
        ("a@b.test,c@d.test", "array"),
        ("a@b.test c@d.test", "array"),
        ("ann,bo@example.test", "array"),
        ("ann@example.test,", "array"),
        ("ann lee@example.test", "space"),
        ("ann@exa mple.test", "space"),
        (".ann@example.test", "dot"),
        ("ann.@example.test", "dot"),
        ("a..b@example.test", "dot"),
        ("a(b)@example.test", "`(`"),
        ("ann@.example.test", "dot"),
        ("ann@example.test.", "dot"),
        ("ann@exa_mple.test", "`_`"),
        ("ann@-example.test", "hyphen"),
        ("ann@example-.test", "hyphen"),
        ("ann@192.0.2.1", "brackets"),
        ("ann@１９２.0.2.１", "brackets"),
        ("ann@[192.0.2]", "literal"),
        ("ann@[192.0.2.1", "literal"),
        ("ann@[IPv6:1]", "literal"),
        ("ann@[日本]", "literal"),
        ("ann@xn--zzzzzz-.test", "international"),
        ("\"ann@example.test", "not closed"),
        ("\"ann\"x@example.test", "closing quote"),
        ("\"\"@example.test", "quotes before the @ are empty"),
        ("ann\r\nRCPT@example.test", "U+000D"),
        ("ann\0@example.test", "U+0000"),
        ("ann\u{85}@example.test", "U+0085"),
        ("ann\u{200b}@example.test", "U+200B"),
        ("\u{feff}ann@example.test", "U+FEFF"),
        ("ann@exam\u{202e}ple.test", "international"),
        (&long_local, "64 bytes"),
        (&long_label, "63 bytes"),
        (&long, "254 bytes"),
        (&endless, "254 bytes"),
    ] {
        let reason = refusal(text);
        assert!(reason.contains(words), "{text:.40}: {reason}");
    }
}

#[test]
fn longest_address_is_parsed() {
    let text = format!("{}@{}c23456789", "a".repeat(64), "b23456789.".repeat(18));
    assert_eq!(text.len(), super::MAX_ADDRESS);
    assert_eq!(text.parse::<Address>().expect("254 bytes").to_string(), text);
}

#[test]
fn domain_comparison_ignores_case() {
    let address = |text: &str| text.parse::<Address>().expect(text);
    assert_eq!(address("ann@Example.test"), address("ann@example.TEST"));
    assert_ne!(address("Ann@example.test"), address("ann@example.test"));
}

#[test]
fn valid_mailboxes_are_parsed() {
    for (text, name, address) in [
        ("ann@example.test", None, "ann@example.test"),
        ("  ann@example.test ", None, "ann@example.test"),
        ("<ann@example.test>", None, "ann@example.test"),
        ("Ann <ann@example.test>", Some("Ann"), "ann@example.test"),
        ("Bo Å<bo@example.test>", Some("Bo Å"), "bo@example.test"),
        ("Acme, Inc. <a@example.test>", Some("Acme, Inc."), "a@example.test"),
        ("ann@example.test <ann@example.test>", Some("ann@example.test"), "ann@example.test"),
        ("\"Doe, John\" <j@example.test>", Some("Doe, John"), "j@example.test"),
        (r#""say \"hi\" \\" <j@example.test>"#, Some(r#"say "hi" \"#), "j@example.test"),
        ("\"\" <j@example.test>", None, "j@example.test"),
        ("\"john doe\"@example.test", None, "\"john doe\"@example.test"),
        ("J <\"a>b\"@example.test>", Some("J"), "\"a>b\"@example.test"),
    ] {
        let mailbox: Mailbox = text.parse().expect(text);
        assert_eq!((mailbox.name.as_deref(), mailbox.address.to_string().as_str()), (name, address), "{text}");
    }
}

#[test]
fn invalid_mailbox_is_rejected_with_the_reason() {
    let long_name = format!("{} <ann@example.test>", "n".repeat(257));
    for (text, words) in [
        ("Ann <>", "empty"),
        ("Ann <ann@example.test", "> after"),
        ("ann@example.test>", "< before"),
        ("Ann <ann@example.test> x", "follow"),
        ("Ann <a@b.test>, Bo <c@d.test>", "array"),
        ("a@b.test, Bo <c@d.test>", "array"),
        ("a@b.test, c@d.test", "array"),
        ("\"Ann\" ann@example.test", "angle brackets"),
        ("\"Ann <ann@example.test>", "not closed"),
        ("Ann \"A\" Lee <ann@example.test>", "quotes"),
        ("Ann <@relay.test:ann@example.test>", "source routes"),
        ("Ann\r\nBcc: x <ann@example.test>", "U+000D"),
        (&long_name, "256 characters"),
    ] {
        let reason = text.parse::<Mailbox>().expect_err(text).0;
        assert!(reason.contains(words), "{text:.60}: {reason}");
    }
}

fn local() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-zA-Z0-9ä例]{1,5}){0,2}",
        "\"([ !#-\\[\\]-~é]|\\\\[!-~]){1,15}\"",
    ]
}

fn domain() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-z])?(\\.[a-z]{2,5}){0,3}x",
        "[äöü例え]{1,5}\\.test",
        any::<std::net::Ipv4Addr>().prop_map(|ip| format!("[{ip}]")),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[IPv6:{ip}]")),
    ]
}

proptest! {
    #[test]
    fn address_and_mailbox_round_trip(local in local(), domain in domain(), name in "\\PC{0,40}") {
        let address: Address = format!("{local}@{domain}").parse().map_err(|e| TestCaseError::reject(format!("{e}")))?;
        prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address.clone());
        let mailbox = Mailbox::new(address, &name).unwrap();
        prop_assert_eq!(mailbox.to_string().parse::<Mailbox>().unwrap(), mailbox);
    }

    #[test]
    fn parsed_address_is_safe_in_a_command(text in "\\PC{0,30}@\\PC{1,20}|.{0,40}") {
        if let Ok(mailbox) = text.parse::<Mailbox>() {
            let written = mailbox.to_string();
            prop_assert_eq!(written.parse::<Mailbox>().unwrap(), mailbox.clone());
            prop_assert!(!written.contains(char::is_control));
            prop_assert!(mailbox.address.domain().is_ascii());
            prop_assert!(mailbox.address.to_string().len() <= super::MAX_ADDRESS);
        }
    }

    #[test]
    fn lettre_accepts_every_ascii_address(local in local(), domain in domain()) {
        if let Ok(address) = format!("{local}@{domain}").parse::<Address>() && !address.needs_smtputf8() {
            prop_assert!(lettre::Address::new(address.local(), address.domain()).is_ok(), "{}", address);
        }
    }
}
