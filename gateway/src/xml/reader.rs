//! Reads the small XML documents of requests into a tree, strictly.
//!
//! A tree rather than serde: serde's view of XML neither checks the root, nor keeps white space of keys, nor refuses
//! what it does not know, and all three matter here.

use std::borrow::Cow;

use quick_xml::events::Event;
use quick_xml::reader::Reader;

use crate::error::{Code, S3Error};

/// Bounds of a document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the document.
    pub len_max: usize,
    /// Elements inside each other.
    pub depth_max: usize,
    /// Elements in all.
    pub elements_max: usize,
}

/// An element: its name without a namespace prefix, its text, its children. One of the latter two is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element<'a> {
    pub name: Cow<'a, str>,
    pub text: Cow<'a, str>,
    /// The attribute `type` (`xsi:type`), if there is one.
    pub kind: Cow<'a, str>,
    pub children: Vec<Element<'a>>,
}

impl<'a> Element<'a> {
    /// The only child called `name`; an error if there are several.
    pub fn child(&self, name: &str) -> Result<Option<&Element<'a>>, S3Error> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let first = found.next();
        if found.next().is_some() {
            return Err(malformed());
        }
        Ok(first)
    }

    /// The text of the only child called `name`, which has no children itself.
    pub fn child_text(&self, name: &str) -> Result<Option<&str>, S3Error> {
        match self.child(name)? {
            Some(child) if child.children.is_empty() => Ok(Some(&child.text)),
            Some(_) => Err(malformed()),
            None => Ok(None),
        }
    }

    /// Refuses children that are not among `names`, and text beside children.
    pub fn expect_only(&self, names: &[&str]) -> Result<(), S3Error> {
        let known = |child: &Element<'_>| names.contains(&child.name.as_ref());
        if self.children.iter().all(known) {
            Ok(())
        } else {
            Err(malformed())
        }
    }
}

/// `MalformedXML`.
pub(super) fn malformed() -> S3Error {
    S3Error::new(Code::MalformedXML)
}

/// Parses `document`, whose root must be `root`. Refuses document types, processing instructions, entities that XML
/// does not predefine, text beside elements, and whatever is outside `limits`.
pub fn parse<'a>(document: &'a [u8], root: &str, limits: Limits) -> Result<Element<'a>, S3Error> {
    if document.len() > limits.len_max {
        return Err(malformed());
    }
    let document = document
        .strip_prefix(b"\xEF\xBB\xBF".as_slice())
        .unwrap_or(document);
    let document = std::str::from_utf8(document).map_err(|_| malformed())?;
    let mut reader = Reader::from_str(document);
    reader.config_mut().expand_empty_elements = true;
    reader.config_mut().check_end_names = true;

    let mut open: Vec<Element<'a>> = Vec::new();
    let mut done: Option<Element<'a>> = None;
    let mut elements = 0usize;
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                elements += 1;
                if done.is_some()
                    || open.len() >= limits.depth_max
                    || elements > limits.elements_max
                {
                    return Err(malformed());
                }
                let mut kind = Cow::Borrowed("");
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(|_| malformed())?;
                    if attribute.key.local_name().as_ref() == "type" {
                        kind = Cow::Owned(attribute.value.as_ref().to_owned());
                    }
                }
                let name = start.local_name().as_ref().to_owned();
                if open.is_empty() && name != root {
                    return Err(malformed());
                }
                open.push(Element {
                    name: Cow::Owned(name),
                    kind,
                    ..Element::default()
                });
            }
            Event::End(_) => {
                let mut element = open.pop().ok_or_else(malformed)?;
                if !element.children.is_empty() {
                    if !element.text.trim_ascii().is_empty() {
                        return Err(malformed());
                    }
                    element.text = Cow::Borrowed("");
                }
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => done = Some(element),
                }
            }
            Event::Text(text) => append(&mut open, text.xml10_content())?,
            Event::CData(text) => append(&mut open, text.xml10_content())?,
            Event::GeneralRef(reference) => {
                let text = match reference.resolve_char_ref().map_err(|_| malformed())? {
                    Some(character) => Cow::Owned(character.to_string()),
                    None => Cow::Borrowed(match reference.borrow().into_inner().as_ref() {
                        "lt" => "<",
                        "gt" => ">",
                        "amp" => "&",
                        "apos" => "'",
                        "quot" => "\"",
                        _ => return Err(malformed()),
                    }),
                };
                append(&mut open, text)?;
            }
            Event::Comment(_) => {}
            Event::Decl(_) if open.is_empty() && done.is_none() => {}
            Event::Eof if open.is_empty() => return done.ok_or_else(malformed),
            Event::Decl(_) | Event::PI(_) | Event::DocType(_) | Event::Empty(_) | Event::Eof => {
                return Err(malformed());
            }
        }
    }
}

/// Adds `text` to the innermost open element; outside the root only white space may be.
fn append<'a>(open: &mut [Element<'a>], text: Cow<'a, str>) -> Result<(), S3Error> {
    match open.last_mut() {
        Some(element) if element.text.is_empty() => element.text = text,
        Some(element) => element.text.to_mut().push_str(&text),
        None if text.trim_ascii().is_empty() => {}
        None => return Err(malformed()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    const LIMITS: Limits = Limits {
        len_max: 1000,
        depth_max: 4,
        elements_max: 10,
    };

    fn refused(document: &str) -> bool {
        matches!(
            parse(document.as_bytes(), "R", LIMITS),
            Err(S3Error {
                code: Code::MalformedXML,
                ..
            })
        )
    }

    #[test]
    fn keeps_what_matters() {
        let document = "<?xml version=\"1.0\"?>\n<!-- c --><x:R xmlns:x=\"urn:any\">\n  <x:A> a&amp;b&#x0a;<![CDATA[<&]]> </x:A><B/>\n</x:R>\n";
        let root = parse(document.as_bytes(), "R", LIMITS).unwrap();
        assert_eq!(root.child_text("A").unwrap(), Some(" a&b\n<& "));
        assert_eq!(root.child_text("B").unwrap(), Some(""));
        assert_eq!(root.child_text("C").unwrap(), None);
        assert!(root.expect_only(&["A", "B"]).is_ok());
        assert!(root.expect_only(&["A"]).is_err());
    }

    #[test]
    fn refuses_what_is_not_ours() {
        for document in [
            "",
            " ",
            "text",
            "<R>",
            "<R></S>",
            "</R>",
            "<S/>",
            "<R/><R/>",
            "<R/>text",
            "text<R/>",
            "<!DOCTYPE R [<!ENTITY a \"b\">]><R>&a;</R>",
            "<R>&nbsp;</R>",
            "<R>&#xD800;</R>",
            "<R><?php ?></R>",
            "<R>text<A/></R>",
            "<R><A></R></A>",
            "<R a=\"1\" a=\"2\"/>",
            "<R a=1/>",
            "<R><A><A><A><A/></A></A></A></R>",
            "<R><A/><A/><A/><A/><A/><A/><A/><A/><A/><A/></R>",
            "<R",
            "<R>&amp</R>",
        ] {
            assert!(refused(document), "{document:?} was accepted");
        }
        assert!(refused(&format!("<R>{}</R>", " ".repeat(1000))));
        assert!(parse(b"<R>\xFF</R>", "R", LIMITS).is_err());
        let twice = parse(b"<R><A/><A/></R>", "R", LIMITS).unwrap();
        assert!(twice.child("A").is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, "R", LIMITS);
        }

        #[test]
        fn never_panics_on_almost_xml(text in "(<[/!?]?(R|A|x:B|!\\[CDATA\\[|DOCTYPE)( a=\"[^\"]?\")?/?>?|&#?x?[0-9a-z]{0,9};?|[ \\n]|]]>|-->|t){0,30}") {
            let _ = parse(text.as_bytes(), "R", LIMITS);
        }
    }
}
