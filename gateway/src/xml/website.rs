//! `WebsiteConfiguration` (API reference, PutBucketWebsite).

use std::borrow::Cow;

use bytes::Bytes;

use super::XmlWriter;
use super::reader::{Element, Limits, malformed, parse};
use crate::error::{Code, S3Error};
use crate::ops::website::{Host, Pages, Replacement, RoutingRule, Website};

/// Bytes of a document at most.
pub const LEN_MAX: usize = 128 * 1024;

/// Rules of a website at most.
const RULES_MAX: usize = 50;

fn invalid(message: &'static str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message)
}

fn refused(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with(Code::InvalidRequest, message)
}

/// Reads a website.
pub fn read(document: &[u8]) -> Result<Website, S3Error> {
    let limits = Limits {
        len_max: LEN_MAX,
        depth_max: 6,
        elements_max: 1000,
    };
    let root = parse(document, "WebsiteConfiguration", limits)?;
    root.expect_only(&[
        "RedirectAllRequestsTo",
        "IndexDocument",
        "ErrorDocument",
        "RoutingRules",
    ])?;
    if let Some(elsewhere) = root.child("RedirectAllRequestsTo")? {
        elsewhere.expect_only(&["HostName", "Protocol"])?;
        let host = host(elsewhere)?;
        if root.children.len() > 1 {
            return Err(invalid(
                "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.",
            ));
        }
        if host.name.is_none() {
            return Err(malformed());
        }
        return Ok(Website::Elsewhere(host));
    }
    let index = root.child("IndexDocument")?.ok_or_else(|| {
        invalid(
            "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty",
        )
    })?;
    index.expect_only(&["Suffix"])?;
    let index = index.child_text("Suffix")?.ok_or_else(malformed)?;
    if index.is_empty() || index.contains('/') {
        return Err(invalid("The IndexDocument Suffix is not well formed"));
    }
    let error = match root.child("ErrorDocument")? {
        Some(error) => {
            error.expect_only(&["Key"])?;
            let key = error.child_text("Key")?.ok_or_else(malformed)?;
            if key.is_empty() {
                return Err(invalid("The ErrorDocument Key is not well formed"));
            }
            Some(key.to_owned())
        }
        None => None,
    };
    let rules = match root.child("RoutingRules")? {
        Some(rules) => {
            rules.expect_only(&["RoutingRule"])?;
            if rules.children.len() > RULES_MAX {
                return Err(refused(format!(
                    "{} routing rules were provided, the maximum is {RULES_MAX}.",
                    rules.children.len()
                )));
            }
            rules.children.iter().map(rule).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    Ok(Website::Pages(Pages {
        index: index.to_owned(),
        error,
        rules,
    }))
}

fn host(element: &Element<'_>) -> Result<Host, S3Error> {
    let name = element.child_text("HostName")?;
    let is_host = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
    };
    if name.is_some_and(|name| !is_host(name)) {
        return Err(invalid("The HostName is not well formed"));
    }
    let protocol = element.child_text("Protocol")?;
    if protocol.is_some_and(|protocol| !["http", "https"].contains(&protocol)) {
        return Err(refused(
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected automatically.",
        ));
    }
    Ok(Host {
        name: name.map(str::to_owned),
        protocol: protocol.map(str::to_owned),
    })
}

fn rule(element: &Element<'_>) -> Result<RoutingRule, S3Error> {
    element.expect_only(&["Condition", "Redirect"])?;
    let redirect = element.child("Redirect")?.ok_or_else(malformed)?;
    redirect.expect_only(&[
        "HostName",
        "HttpRedirectCode",
        "Protocol",
        "ReplaceKeyPrefixWith",
        "ReplaceKeyWith",
    ])?;
    if redirect.children.is_empty() {
        return Err(malformed());
    }
    let replacement = match (
        redirect.child_text("ReplaceKeyPrefixWith")?,
        redirect.child_text("ReplaceKeyWith")?,
    ) {
        (None, None) => None,
        (Some(with), None) => Some(Replacement::Prefix(with.to_owned())),
        (None, Some(whole)) => Some(Replacement::Whole(whole.to_owned())),
        (Some(_), Some(_)) => {
            return Err(refused(
                "You can only define ReplaceKeyPrefix or ReplaceKey but not both.",
            ));
        }
    };
    let mut rule = RoutingRule {
        host: host(redirect)?,
        // 306 is reserved: no browser goes anywhere for it.
        status: read_status(redirect, "HttpRedirectCode", |status| {
            (301..=308).contains(&status) && status != 306
        })?,
        replacement,
        ..RoutingRule::default()
    };
    if let Some(condition) = element.child("Condition")? {
        condition.expect_only(&["HttpErrorCodeReturnedEquals", "KeyPrefixEquals"])?;
        rule.key_prefix = condition.child_text("KeyPrefixEquals")?.map(str::to_owned);
        rule.error_status = read_status(condition, "HttpErrorCodeReturnedEquals", |status| {
            (400..=599).contains(&status)
        })?;
        if rule.key_prefix.is_none() && rule.error_status.is_none() {
            return Err(refused(
                "Condition cannot be empty. To redirect all requests without a condition, the condition element shouldn't be present.",
            ));
        }
    }
    Ok(rule)
}

/// An HTTP status in an element.
fn read_status(
    element: &Element<'_>,
    name: &str,
    is_valid: impl Fn(u16) -> bool,
) -> Result<Option<u16>, S3Error> {
    let Some(text) = element.child_text(name)? else {
        return Ok(None);
    };
    let status: i64 = text.trim().parse().map_err(|_| malformed())?;
    let valid = u16::try_from(status)
        .ok()
        .filter(|status| is_valid(*status));
    valid.map(Some).ok_or_else(|| {
        refused(format!(
            "The provided HTTP status ({status}) is not valid as {name}."
        ))
    })
}

/// Writes a website.
pub fn write(site: &Website) -> Bytes {
    let mut document = XmlWriter::new("WebsiteConfiguration", 1024);
    match site {
        Website::Elsewhere(host) => {
            document.open("RedirectAllRequestsTo");
            write_host(&mut document, host);
            document.close("RedirectAllRequestsTo");
        }
        Website::Pages(pages) => {
            document.open("IndexDocument");
            document.text("Suffix", &pages.index);
            document.close("IndexDocument");
            if let Some(key) = &pages.error {
                document.open("ErrorDocument");
                document.text("Key", key);
                document.close("ErrorDocument");
            }
            if !pages.rules.is_empty() {
                document.open("RoutingRules");
                for rule in &pages.rules {
                    write_rule(&mut document, rule);
                }
                document.close("RoutingRules");
            }
        }
    }
    document.finish("WebsiteConfiguration")
}

fn write_host(document: &mut XmlWriter, host: &Host) {
    if let Some(name) = &host.name {
        document.text("HostName", name);
    }
    if let Some(protocol) = &host.protocol {
        document.text("Protocol", protocol);
    }
}

fn write_rule(document: &mut XmlWriter, rule: &RoutingRule) {
    document.open("RoutingRule");
    if rule.key_prefix.is_some() || rule.error_status.is_some() {
        document.open("Condition");
        if let Some(prefix) = &rule.key_prefix {
            document.text("KeyPrefixEquals", prefix);
        }
        if let Some(status) = rule.error_status {
            document.number("HttpErrorCodeReturnedEquals", u64::from(status));
        }
        document.close("Condition");
    }
    document.open("Redirect");
    write_host(document, &rule.host);
    match &rule.replacement {
        Some(Replacement::Prefix(with)) => document.text("ReplaceKeyPrefixWith", with),
        Some(Replacement::Whole(whole)) => document.text("ReplaceKeyWith", whole),
        None => {}
    }
    if let Some(status) = rule.status {
        document.number("HttpRedirectCode", u64::from(status));
    }
    document.close("Redirect");
    document.close("RoutingRule");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn of(inner: &str) -> Result<Website, Code> {
        let document = format!("<WebsiteConfiguration>{inner}</WebsiteConfiguration>");
        read(document.as_bytes()).map_err(|error| error.code)
    }

    #[test]
    fn websites_are_shown_as_they_were_given() {
        for inner in [
            "<RedirectAllRequestsTo><HostName>a.test</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>",
            "<IndexDocument><Suffix>index.html</Suffix></IndexDocument><ErrorDocument><Key>e/404.html</Key></ErrorDocument>\
             <RoutingRules><RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition><Redirect><ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith><HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule>\
             <RoutingRule><Condition><HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition><Redirect><HostName>b.test</HostName><ReplaceKeyWith>k</ReplaceKeyWith></Redirect></RoutingRule></RoutingRules>",
        ] {
            let site = of(inner).unwrap();
            let shown = String::from_utf8(write(&site).to_vec()).unwrap();
            let shown = shown.split_once("2006-03-01/\">").unwrap().1;
            assert_eq!(shown, format!("{inner}</WebsiteConfiguration>"));
        }
    }

    #[test]
    fn strange_websites_are_refused() {
        for (inner, code) in [
            ("", Code::InvalidArgument),
            (
                "<IndexDocument><Suffix>a/b</Suffix></IndexDocument>",
                Code::InvalidArgument,
            ),
            (
                "<IndexDocument><Suffix/></IndexDocument>",
                Code::InvalidArgument,
            ),
            ("<RedirectAllRequestsTo/>", Code::MalformedXML),
            (
                "<RedirectAllRequestsTo><HostName>a b</HostName></RedirectAllRequestsTo>",
                Code::InvalidArgument,
            ),
            ("<Other/>", Code::MalformedXML),
            (
                "<RedirectAllRequestsTo><HostName>a</HostName></RedirectAllRequestsTo><IndexDocument><Suffix>i</Suffix></IndexDocument>",
                Code::InvalidArgument,
            ),
            (
                "<RedirectAllRequestsTo><HostName>a</HostName><Protocol>ftp</Protocol></RedirectAllRequestsTo>",
                Code::InvalidRequest,
            ),
            (
                "<IndexDocument><Suffix>i</Suffix></IndexDocument><ErrorDocument><Key/></ErrorDocument>",
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(of(inner).err(), Some(code), "{inner}");
        }
    }

    #[test]
    fn strange_rules_are_refused() {
        let with = |rules: &str| {
            let index = "<IndexDocument><Suffix>i</Suffix></IndexDocument>";
            of(&format!("{index}<RoutingRules>{rules}</RoutingRules>")).err()
        };
        let code = |code: &str| {
            format!("<Redirect><HttpRedirectCode>{code}</HttpRedirectCode></Redirect>")
        };
        let error = |code: &str| {
            let status =
                format!("<HttpErrorCodeReturnedEquals>{code}</HttpErrorCodeReturnedEquals>");
            format!("<Condition>{status}</Condition><Redirect><HostName>a</HostName></Redirect>")
        };
        let both = "<Redirect><ReplaceKeyPrefixWith>a</ReplaceKeyPrefixWith><ReplaceKeyWith>b</ReplaceKeyWith></Redirect>";
        for (rule, refused) in [
            (both.to_owned(), Some(Code::InvalidRequest)),
            ("<Redirect/>".to_owned(), Some(Code::MalformedXML)),
            (
                format!("<Condition/>{}", code("301")),
                Some(Code::InvalidRequest),
            ),
            (code("308"), None),
            (code("200"), Some(Code::InvalidRequest)),
            (code("306"), Some(Code::InvalidRequest)),
            (code("99999"), Some(Code::InvalidRequest)),
            (code("moved"), Some(Code::MalformedXML)),
            (error("404"), None),
            (error("399"), Some(Code::InvalidRequest)),
            (error("x"), Some(Code::MalformedXML)),
        ] {
            let rule = format!("<RoutingRule>{rule}</RoutingRule>");
            assert_eq!(with(&rule), refused, "{rule}");
        }
        let rule = format!("<RoutingRule>{}</RoutingRule>", code("301"));
        assert_eq!(with(&rule.repeat(50)), None);
        assert_eq!(with(&rule.repeat(51)), Some(Code::InvalidRequest));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
