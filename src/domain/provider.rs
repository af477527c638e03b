//! Mailbox providers, recognised by the names of their mail exchangers. The list is closed, so that a provider can be the
//! label of a metric: the domain of a recipient never is.

use super::words::words;

words! {
    /// The provider whose servers receive the messages for a domain, by the name of the mail exchanger.
    pub enum Provider as "Provider" {
        /// None of the others, or no server was found.
        Other = "other",
        /// Gmail and Google Workspace.
        Google = "google",
        /// Mailboxes of consumers at Microsoft: Outlook.com, Hotmail, Live.
        Outlook = "outlook",
        /// Microsoft 365.
        Microsoft365 = "microsoft_365",
        /// Yahoo and AOL.
        Yahoo = "yahoo",
        /// Yahoo! JAPAN.
        YahooJapan = "yahoo_japan",
        /// iCloud Mail.
        Apple = "apple",
        /// GMX, WEB.DE and mail.com.
        Gmx = "gmx",
        /// T-Online.
        TOnline = "t_online",
        /// IONOS.
        Ionos = "ionos",
        /// Orange (France).
        Orange = "orange",
        /// OVHcloud.
        Ovh = "ovh",
        /// Comcast.
        Comcast = "comcast",
        /// KPN.
        Kpn = "kpn",
        /// Mail.ru.
        MailRu = "mail_ru",
        /// Yandex.
        Yandex = "yandex",
        /// QQ Mail and Tencent Exmail.
        Qq = "qq",
        /// NetEase: 163.com and 126.com.
        NetEase = "netease",
        /// Fastmail.
        Fastmail = "fastmail",
        /// Proton Mail.
        Proton = "proton",
        /// Zoho Mail.
        Zoho = "zoho",
        /// Mimecast, which filters messages for other servers.
        Mimecast = "mimecast",
        /// Proofpoint, which filters messages for other servers.
        Proofpoint = "proofpoint",
        /// Barracuda, which filters messages for other servers.
        Barracuda = "barracuda",
        /// Cisco Secure Email, which filters messages for other servers.
        Cisco = "cisco",
    }
}

/// The domains of the providers' mail exchangers. A more specific one precedes those that contain it.
const SUFFIXES: [(&str, Provider); 41] = [
    ("google.com", Provider::Google),
    ("googlemail.com", Provider::Google),
    ("olc.protection.outlook.com", Provider::Outlook),
    ("mail.protection.outlook.com", Provider::Microsoft365),
    ("mx.microsoft", Provider::Microsoft365),
    ("yahoodns.net", Provider::Yahoo),
    ("yahoo.co.jp", Provider::YahooJapan),
    ("icloud.com", Provider::Apple),
    ("gmx.net", Provider::Gmx),
    ("web.de", Provider::Gmx),
    ("mail.com", Provider::Gmx),
    ("t-online.de", Provider::TOnline),
    ("kundenserver.de", Provider::Ionos),
    ("ionos.com", Provider::Ionos),
    ("ionos.co.uk", Provider::Ionos),
    ("ionos.es", Provider::Ionos),
    ("ionos.fr", Provider::Ionos),
    ("1and1.com", Provider::Ionos),
    ("orange.fr", Provider::Orange),
    ("ovh.net", Provider::Ovh),
    ("comcast.net", Provider::Comcast),
    ("kpnmail.nl", Provider::Kpn),
    ("mail.ru", Provider::MailRu),
    ("yandex.net", Provider::Yandex),
    ("yandex.ru", Provider::Yandex),
    ("qq.com", Provider::Qq),
    ("netease.com", Provider::NetEase),
    ("messagingengine.com", Provider::Fastmail),
    ("protonmail.ch", Provider::Proton),
    ("proton.me", Provider::Proton),
    ("zoho.com", Provider::Zoho),
    ("zoho.eu", Provider::Zoho),
    ("zoho.in", Provider::Zoho),
    ("mimecast.com", Provider::Mimecast),
    ("mimecast.co.za", Provider::Mimecast),
    ("mimecast-offshore.com", Provider::Mimecast),
    ("pphosted.com", Provider::Proofpoint),
    ("ppe-hosted.com", Provider::Proofpoint),
    ("barracudanetworks.com", Provider::Barracuda),
    ("cudamail.com", Provider::Barracuda),
    ("iphmx.com", Provider::Cisco),
];

impl Provider {
    /// Returns the provider that runs the mail exchanger with this name.
    pub fn from_mx(host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
        let is_under = |domain: &[u8]| {
            let Some(start) = host.len().checked_sub(domain.len()) else { return false };
            host[start..].eq_ignore_ascii_case(domain) && (start == 0 || host[start - 1] == b'.')
        };
        let found = SUFFIXES.iter().find(|(domain, _)| is_under(domain.as_bytes()));
        found.map_or(Self::Other, |(_, provider)| *provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_is_recognised_by_its_mail_exchanger() {
        for (host, provider) in [
            ("aspmx.l.google.com", Provider::Google),
            ("ALT1.ASPMX.L.GOOGLE.COM.", Provider::Google),
            ("aspmx2.googlemail.com", Provider::Google),
            ("outlook-com.olc.protection.outlook.com", Provider::Outlook),
            ("acme-test.mail.protection.outlook.com", Provider::Microsoft365),
            ("acme-test.p-v1.mx.microsoft", Provider::Microsoft365),
            ("mta5.am0.yahoodns.net", Provider::Yahoo),
            ("mx1.mail.yahoo.co.jp", Provider::YahooJapan),
            ("mx01.mail.icloud.com", Provider::Apple),
            ("mx00.emig.gmx.net", Provider::Gmx),
            ("mx-ha02.web.de", Provider::Gmx),
            ("mx00.kundenserver.de", Provider::Ionos),
            ("mxs.mail.ru", Provider::MailRu),
            ("mxbiz1.qq.com", Provider::Qq),
            ("in1-smtp.messagingengine.com", Provider::Fastmail),
            ("eu-smtp-inbound-1.mimecast.com", Provider::Mimecast),
            ("mx0a-001.pphosted.com", Provider::Proofpoint),
            ("d1.ess.barracudanetworks.com", Provider::Barracuda),
            ("esa1.acme.iphmx.com", Provider::Cisco),
        ] {
            assert_eq!(Provider::from_mx(host), provider, "{host}");
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

    #[test]
    fn every_suffix_is_reachable_and_every_provider_has_one() {
        for (domain, provider) in SUFFIXES {
            assert_eq!(Provider::from_mx(&format!("mx.{domain}")), provider, "{domain}");
        }
        for provider in Provider::ALL.into_iter().filter(|provider| *provider != Provider::Other) {
            assert!(SUFFIXES.iter().any(|(_, found)| *found == provider), "{}", provider.as_str());
        }
    }
}
