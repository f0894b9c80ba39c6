//! Pages of ListObjectsV2 (S3 API reference, "ListObjectsV2"), read just far enough to count, walk and check.

use memchr::memmem;

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub keys: u64,
    pub common_prefixes: u64,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
    /// First key that does not follow the one before it in UTF-8 binary order; only when asked to check.
    pub out_of_order: Option<String>,
}

/// Reads a page. With `last`, the keys are decoded and must ascend from it; it is left at the page's last key.
pub fn read_page(xml: &[u8], last: Option<&mut Option<String>>) -> Result<Page, String> {
    if memmem::find(xml, b"<ListBucketResult").is_none() {
        return Err("the answer is not a ListBucketResult".to_owned());
    }
    let mut page = Page {
        common_prefixes: memmem::find_iter(xml, b"<CommonPrefixes>").count() as u64,
        ..Page::default()
    };
    match last {
        None => page.keys = memmem::find_iter(xml, b"<Key>").count() as u64,
        Some(last) => {
            for at in memmem::find_iter(xml, b"<Key>") {
                page.keys += 1;
                let key = text_at(xml, at + "<Key>".len())?;
                if last.as_ref().is_some_and(|last| *last >= key) && page.out_of_order.is_none() {
                    page.out_of_order = Some(key.clone());
                }
                *last = Some(key);
            }
        }
    }
    if element(xml, "IsTruncated")?.as_deref() == Some("true") {
        let token = element(xml, "NextContinuationToken")?;
        page.next =
            Some(token.ok_or("the page says IsTruncated but has no NextContinuationToken")?);
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
mod tests {
    use super::{Page, element, read_page};

    const PAGE: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name>\
        <IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b&#x2F;==</NextContinuationToken>\
        <Contents><Key>a&lt;1</Key></Contents><Contents><Key>b</Key></Contents>\
        <CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>";

    #[test]
    fn a_page_is_counted_and_its_token_decoded() {
        let expected = Page {
            keys: 2,
            common_prefixes: 1,
            next: Some("a&b/==".to_owned()),
            out_of_order: None,
        };
        assert_eq!(read_page(PAGE.as_bytes(), None).as_ref(), Ok(&expected));
        let mut last = None;
        assert_eq!(
            read_page(PAGE.as_bytes(), Some(&mut last)).as_ref(),
            Ok(&expected)
        );
        assert_eq!(last.as_deref(), Some("b"));
    }

    #[test]
    fn order_is_checked_across_pages() {
        let mut last = Some("a<1".to_owned());
        let page = read_page(PAGE.as_bytes(), Some(&mut last));
        assert_eq!(
            page.map(|page| page.out_of_order),
            Ok(Some("a<1".to_owned()))
        );
    }

    #[test]
    fn broken_answers_are_errors() {
        assert!(read_page(b"<html>", None).is_err());
        assert!(read_page(b"<ListBucketResult><IsTruncated>true</IsTruncated>", None).is_err());
        assert!(read_page(b"<ListBucketResult><Key>abc", Some(&mut None)).is_err());
        assert!(read_page(b"<ListBucketResult><Key>a&bogus;c</Key>", Some(&mut None)).is_err());
    }

    #[test]
    fn elements_are_found_by_name() {
        let xml = b"<Error><Code>NoSuchKey</Code><Message>It&apos;s gone</Message></Error>";
        assert_eq!(element(xml, "Code"), Ok(Some("NoSuchKey".to_owned())));
        assert_eq!(element(xml, "Message"), Ok(Some("It's gone".to_owned())));
        assert_eq!(element(xml, "Key"), Ok(None));
    }
}
