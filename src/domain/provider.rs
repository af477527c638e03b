//! The mailbox provider of a recipient, from the host name of its mail exchanger or from its domain. The list is closed,
//! so that figures by provider have a bounded number of series.

use super::words::words;

words! {
    /// The operator of a recipient's mailbox or of the filter before it. New providers may be added.
    pub enum Provider as "MailboxProvider" {
        /// Gmail and Google Workspace.
        Google = "google",
        /// Microsoft 365.
        Microsoft365 = "microsoft365",
        /// Outlook.com, Hotmail, Live and MSN.
        Outlook = "outlook",
        /// Yahoo and AOL.
        Yahoo = "yahoo",
        /// Yahoo! JAPAN.
        YahooJapan = "yahoo_japan",
        /// Apple: iCloud Mail, me.com and mac.com.
        Apple = "apple",
        /// GMX, WEB.DE and mail.com.
        Gmx = "gmx",
        /// Mail hosting of IONOS.
        Ionos = "ionos",
        /// T-Online.
        Telekom = "telekom",
        /// Orange and Wanadoo.
        Orange = "orange",
        /// KPN.
        Kpn = "kpn",
        /// Comcast and Xfinity.
        Comcast = "comcast",
        /// Proton Mail.
        Proton = "proton",
        /// Fastmail.
        Fastmail = "fastmail",
        /// Zoho Mail.
        Zoho = "zoho",
        /// Yandex.
        Yandex = "yandex",
        /// Mail.ru.
        MailRu = "mail_ru",
        /// QQ Mail and Tencent Exmail.
        Tencent = "tencent",
        /// NetEase: 163.com, 126.com and yeah.net.
        Netease = "netease",
        /// OVHcloud.
        Ovh = "ovh",
        /// Mail hosting of GoDaddy.
        Godaddy = "godaddy",
        /// Filters of Proofpoint.
        Proofpoint = "proofpoint",
        /// Filters of Mimecast.
        Mimecast = "mimecast",
        /// Filters of Barracuda.
        Barracuda = "barracuda",
        /// Filters of Cisco (IronPort).
        Cisco = "cisco",
        /// Any other, or unknown.
        Other = "other",
    }
}

/// Suffixes of host names of mail exchangers. The first that matches decides.
const MX_SUFFIXES: &[(&str, Provider)] = &[
    ("google.com", Provider::Google),
    ("googlemail.com", Provider::Google),
    ("olc.protection.outlook.com", Provider::Outlook),
    ("hotmail.com", Provider::Outlook),
    ("mail.protection.outlook.com", Provider::Microsoft365),
    ("mx.microsoft", Provider::Microsoft365),
    ("outlook.com", Provider::Microsoft365),
    ("yahoodns.net", Provider::Yahoo),
    ("yahoo.co.jp", Provider::YahooJapan),
    ("icloud.com", Provider::Apple),
    ("gmx.net", Provider::Gmx),
    ("gmx.com", Provider::Gmx),
    ("web.de", Provider::Gmx),
    ("mail.com", Provider::Gmx),
    ("kundenserver.de", Provider::Ionos),
    ("ionos.com", Provider::Ionos),
    ("ionos.de", Provider::Ionos),
    ("ionos.co.uk", Provider::Ionos),
    ("ionos.fr", Provider::Ionos),
    ("ionos.es", Provider::Ionos),
    ("1and1.com", Provider::Ionos),
    ("t-online.de", Provider::Telekom),
    ("orange.fr", Provider::Orange),
    ("wanadoo.fr", Provider::Orange),
    ("kpnmail.nl", Provider::Kpn),
    ("comcast.net", Provider::Comcast),
    ("protonmail.ch", Provider::Proton),
    ("proton.me", Provider::Proton),
    ("messagingengine.com", Provider::Fastmail),
    ("zoho.com", Provider::Zoho),
    ("zoho.eu", Provider::Zoho),
    ("zoho.in", Provider::Zoho),
    ("yandex.ru", Provider::Yandex),
    ("yandex.net", Provider::Yandex),
    ("mail.ru", Provider::MailRu),
    ("qq.com", Provider::Tencent),
    ("163.com", Provider::Netease),
    ("126.com", Provider::Netease),
    ("netease.com", Provider::Netease),
    ("ovh.net", Provider::Ovh),
    ("secureserver.net", Provider::Godaddy),
    ("pphosted.com", Provider::Proofpoint),
    ("ppe-hosted.com", Provider::Proofpoint),
    ("mimecast.com", Provider::Mimecast),
    ("mimecast.co.za", Provider::Mimecast),
    ("mimecast-offshore.com", Provider::Mimecast),
    ("barracudanetworks.com", Provider::Barracuda),
    ("cudamail.com", Provider::Barracuda),
    ("iphmx.com", Provider::Cisco),
];

/// Domains of addresses, for messages of which only the domain is known: those that were not attempted, and those that a
/// relay has taken over.
const DOMAINS: &[(&str, Provider)] = &[
    ("gmail.com", Provider::Google),
    ("googlemail.com", Provider::Google),
    ("outlook.com", Provider::Outlook),
    ("hotmail.com", Provider::Outlook),
    ("live.com", Provider::Outlook),
    ("msn.com", Provider::Outlook),
    ("outlook.de", Provider::Outlook),
    ("outlook.fr", Provider::Outlook),
    ("hotmail.de", Provider::Outlook),
    ("hotmail.fr", Provider::Outlook),
    ("hotmail.it", Provider::Outlook),
    ("hotmail.es", Provider::Outlook),
    ("hotmail.co.uk", Provider::Outlook),
    ("live.de", Provider::Outlook),
    ("live.fr", Provider::Outlook),
    ("live.nl", Provider::Outlook),
    ("live.co.uk", Provider::Outlook),
    ("yahoo.com", Provider::Yahoo),
    ("yahoo.de", Provider::Yahoo),
    ("yahoo.fr", Provider::Yahoo),
    ("yahoo.it", Provider::Yahoo),
    ("yahoo.es", Provider::Yahoo),
    ("yahoo.co.uk", Provider::Yahoo),
    ("yahoo.co.in", Provider::Yahoo),
    ("yahoo.in", Provider::Yahoo),
    ("yahoo.com.br", Provider::Yahoo),
    ("yahoo.ca", Provider::Yahoo),
    ("yahoo.co.jp", Provider::YahooJapan),
    ("ymail.com", Provider::Yahoo),
    ("rocketmail.com", Provider::Yahoo),
    ("aol.com", Provider::Yahoo),
    ("icloud.com", Provider::Apple),
    ("me.com", Provider::Apple),
    ("mac.com", Provider::Apple),
    ("gmx.de", Provider::Gmx),
    ("gmx.net", Provider::Gmx),
    ("gmx.com", Provider::Gmx),
    ("gmx.at", Provider::Gmx),
    ("gmx.ch", Provider::Gmx),
    ("web.de", Provider::Gmx),
    ("mail.com", Provider::Gmx),
    ("t-online.de", Provider::Telekom),
    ("orange.fr", Provider::Orange),
    ("wanadoo.fr", Provider::Orange),
    ("comcast.net", Provider::Comcast),
    ("proton.me", Provider::Proton),
    ("protonmail.com", Provider::Proton),
    ("pm.me", Provider::Proton),
    ("fastmail.com", Provider::Fastmail),
    ("fastmail.fm", Provider::Fastmail),
    ("zoho.com", Provider::Zoho),
    ("zohomail.com", Provider::Zoho),
    ("yandex.ru", Provider::Yandex),
    ("yandex.com", Provider::Yandex),
    ("ya.ru", Provider::Yandex),
    ("mail.ru", Provider::MailRu),
    ("inbox.ru", Provider::MailRu),
    ("list.ru", Provider::MailRu),
    ("bk.ru", Provider::MailRu),
    ("qq.com", Provider::Tencent),
    ("foxmail.com", Provider::Tencent),
    ("163.com", Provider::Netease),
    ("126.com", Provider::Netease),
    ("yeah.net", Provider::Netease),
];

impl Provider {
    /// Returns the provider with this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == word)
    }

    /// Returns the provider that a mail exchanger belongs to; if it belongs to none of the list, or is a relay, that of
    /// the recipient's domain.
    pub fn find(mx: Option<&str>, domain: Option<&str>) -> Self {
        mx.and_then(Self::find_mx).or_else(|| domain.and_then(Self::from_domain)).unwrap_or(Self::Other)
    }

    /// Returns the provider that runs the mail exchanger with this name.
    pub fn from_mx(host: &str) -> Self {
        Self::find_mx(host).unwrap_or(Self::Other)
    }

    fn find_mx(host: &str) -> Option<Self> {
        let host = host.trim_end_matches('.');
        let matches = |suffix: &str| {
            let Some(at) = host.len().checked_sub(suffix.len()) else { return false };
            let tail = host.as_bytes().get(at..).unwrap_or_default();
            tail.eq_ignore_ascii_case(suffix.as_bytes()) && (at == 0 || host.as_bytes().get(at - 1) == Some(&b'.'))
        };
        MX_SUFFIXES.iter().find(|(suffix, _)| matches(suffix)).map(|(_, provider)| *provider)
    }

    fn from_domain(domain: &str) -> Option<Self> {
        DOMAINS.iter().find(|(known, _)| known.eq_ignore_ascii_case(domain)).map(|(_, provider)| *provider)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mail_exchangers_and_domains_of_large_providers() {
        for (mx, domain, expected) in [
            (Some("gmail-smtp-in.l.google.com"), "gmail.com", Provider::Google),
            (Some("ASPMX.L.Google.com."), "acme.test", Provider::Google),
            (Some("acme-test.mail.protection.outlook.com"), "acme.test", Provider::Microsoft365),
            (Some("acme-test.p-v1.mx.microsoft"), "acme.test", Provider::Microsoft365),
            (Some("outlook-com.olc.protection.outlook.com"), "outlook.com", Provider::Outlook),
            (Some("mx-eu.mail.am0.yahoodns.net"), "yahoo.co.uk", Provider::Yahoo),
            (Some("mx01.mail.icloud.com"), "me.com", Provider::Apple),
            (Some("mx00.emig.gmx.net"), "gmx.de", Provider::Gmx),
            (Some("mxa-001.gslb.pphosted.com"), "acme.test", Provider::Proofpoint),
            (Some("mxs.mail.ru"), "mail.ru", Provider::MailRu),
            (Some("relay.acme.test"), "Gmail.com", Provider::Google),
            (None, "hotmail.com", Provider::Outlook),
            (Some("mx.example.test"), "example.test", Provider::Other),
            (Some("notgoogle.com"), "example.test", Provider::Other),
            (Some("google.com.example.test"), "example.test", Provider::Other),
            (None, "mail.gmail.com", Provider::Other),
        ] {
            assert_eq!(Provider::find(mx, Some(domain)), expected, "{mx:?} {domain}");
        }
        assert_eq!(Provider::find(None, None), Provider::Other);
    }

    #[test]
    fn each_provider_is_found_by_a_mail_exchanger() {
        for provider in Provider::ALL {
            let is_listed = MX_SUFFIXES.iter().any(|(suffix, _)| Provider::from_mx(suffix) == provider);
            assert_eq!(is_listed, provider != Provider::Other, "{provider:?}");
            assert_eq!(Provider::parse(provider.as_str()), Some(provider));
        }
    }

    #[test]
    fn name_that_only_ends_like_a_provider_is_other() {
        for host in
            ["", ".", "mx.acme.test", "mx.notgoogle.com", "google.com.acme.test", "com", "[192.0.2.1]", "é.web.dé"]
        {
            assert_eq!(Provider::from_mx(host), Provider::Other, "{host}");
        }
        assert_eq!(Provider::from_mx("google.com"), Provider::Google, "the domain itself");
    }

    proptest! {
        #[test]
        fn any_text_has_a_provider(mx in ".{0,40}", domain in ".{0,40}") {
            Provider::find(Some(&mx), Some(&domain));
        }
    }
}
