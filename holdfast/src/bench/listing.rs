//! Pages of ListObjectsV2 and ListObjectVersions (S3 API reference), read just far enough to count, walk and check.

use memchr::memmem;

use super::args::Plan;

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys, or versions and delete markers.
    pub keys: u64,
    pub common_prefixes: u64,
    /// Where the next page goes on, if there is one.
    pub next: Option<Next>,
    /// The first thing that is not as it must be; only when asked to check.
    pub wrong: Option<String>,
}

/// Where a page goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Token(String),
    /// Of versions: a key and, unless all of its versions were listed, a version.
    Markers(String, Option<String>),
}

/// Checks the keys of a walk, page after page: that they ascend and, where all numbers are to be listed, that each is
/// there once.
#[derive(Debug)]
pub struct Order<'a> {
    plan: &'a Plan,
    last: Option<String>,
    /// The number that must be listed next, and its key.
    expected: Option<(u64, String)>,
    own_prefix: String,
}

impl<'a> Order<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            last: None,
            expected: plan.walks_all().then(|| (0, plan.key(0))),
            own_prefix: plan.own_prefix(),
        }
    }

    /// Takes the next key of the walk; says what is wrong with it.
    fn take(&mut self, key: String) -> Option<String> {
        let falls = match &self.last {
            // Versions of a key follow each other.
            Some(last) if self.plan.versions => *last > key,
            Some(last) => *last >= key,
            None => false,
        };
        let repeats = self.last.as_ref() == Some(&key);
        let wrong = if falls {
            Some(format!("the listing is not in order at {key}"))
        } else if repeats {
            None
        } else {
            self.count(&key)
        };
        self.last = Some(key);
        wrong
    }

    fn count(&mut self, key: &str) -> Option<String> {
        let (number, expected) = self.expected.as_mut()?;
        if key == expected {
            *number += 1;
            *expected = self.plan.key(*number);
            return (*number > self.plan.keys)
                .then(|| format!("{key} is listed, --keys says {}", self.plan.keys));
        }
        if key.starts_with(&self.own_prefix) {
            return None;
        }
        let wrong = match key > expected.as_str() && *number < self.plan.keys {
            true => format!("{expected} is not listed: {key} comes instead"),
            false => format!("{key} is listed, and nobody wrote it"),
        };
        self.expected = None;
        Some(wrong)
    }

    /// What is wrong with a walk that has come to its end.
    pub fn end(&self) -> Option<String> {
        let (number, expected) = self.expected.as_ref()?;
        (*number < self.plan.keys).then(|| {
            format!(
                "a walk ended without {expected}: it listed {number} keys, --keys says {}",
                self.plan.keys
            )
        })
    }
}

/// Reads a page, and with `order` checks its keys.
pub fn read_page(
    xml: &[u8],
    versions: bool,
    order: Option<&mut Order<'_>>,
) -> Result<Page, String> {
    let root = match versions {
        true => "<ListVersionsResult",
        false => "<ListBucketResult",
    };
    if memmem::find(xml, root.as_bytes()).is_none() {
        return Err(format!("the answer is not a {}", &root[1..]));
    }
    let mut page = Page {
        common_prefixes: memmem::find_iter(xml, b"<CommonPrefixes>").count() as u64,
        ..Page::default()
    };
    match order {
        None => page.keys = memmem::find_iter(xml, b"<Key>").count() as u64,
        Some(order) => {
            for at in memmem::find_iter(xml, b"<Key>") {
                page.keys += 1;
                let wrong = order.take(text_at(xml, at + "<Key>".len())?);
                page.wrong = page.wrong.or(wrong);
            }
        }
    }
    if element(xml, "IsTruncated")?.as_deref() == Some("true") {
        page.next = Some(match versions {
            false => {
                let token = element(xml, "NextContinuationToken")?;
                Next::Token(
                    token.ok_or("the page says IsTruncated but has no NextContinuationToken")?,
                )
            }
            true => {
                let key = element(xml, "NextKeyMarker")?;
                Next::Markers(
                    key.ok_or("the page says IsTruncated but has no NextKeyMarker")?,
                    element(xml, "NextVersionIdMarker")?,
                )
            }
        });
    }
    Ok(page)
}

/// The text of the first element called `name`.
pub fn element(xml: &[u8], name: &str) -> Result<Option<String>, String> {
    let tag = format!("<{name}>");
    memmem::find(xml, tag.as_bytes())
        .map(|at| text_at(xml, at + tag.len()))
        .transpose()
}

fn text_at(xml: &[u8], from: usize) -> Result<String, String> {
    let len = memchr::memchr(b'<', &xml[from..]).ok_or("the answer ends within an element")?;
    let text =
        std::str::from_utf8(&xml[from..from + len]).map_err(|_| "the answer is not UTF-8")?;
    if text.contains('&') {
        unescape(text)
    } else {
        Ok(text.to_owned())
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 1..]
            .split_once(';')
            .ok_or_else(|| format!("`{text}` has an `&` that begins no entity"))?;
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => name
                .strip_prefix('#')
                .and_then(|code| match code.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => code.parse().ok(),
                })
                .and_then(char::from_u32)
                .ok_or_else(|| format!("`&{name};` is no entity of XML"))?,
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
#[path = "listing/tests.rs"]
mod tests;
