use clap::Parser;

use super::{Next, Order, Page, element, read_page};
use crate::bench::args::{BenchArgs, Plan};

const PAGE: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name>\
    <IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b&#x2F;==</NextContinuationToken>\
    <Contents><Key>a&lt;1</Key></Contents><Contents><Key>b</Key></Contents>\
    <CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>";

const VERSIONS: &str = "<ListVersionsResult><NextKeyMarker>b</NextKeyMarker>\
    <NextVersionIdMarker>v2</NextVersionIdMarker><IsTruncated>true</IsTruncated>\
    <Version><Key>a</Key></Version><DeleteMarker><Key>b</Key></DeleteMarker>\
    <Version><Key>b</Key></Version></ListVersionsResult>";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn plan(line: &str) -> Plan {
    let words = "bench list --access-key a --secret-key s --keys-per-folder 0 --prefix p/";
    let cli = Cli::parse_from(words.split(' ').chain(line.split_whitespace()));
    Plan::new(&cli.bench).expect("valid")
}

fn page_of(keys: &[&str]) -> String {
    let keys: String = keys.iter().map(|key| format!("<Key>{key}</Key>")).collect();
    format!("<ListBucketResult>{keys}</ListBucketResult>")
}

/// What is wrong with a walk of these pages.
fn wrong_with(line: &str, pages: &[&[&str]]) -> Option<String> {
    let plan = plan(line);
    let mut order = Order::new(&plan);
    for keys in pages {
        let page = read_page(page_of(keys).as_bytes(), false, Some(&mut order)).expect("a page");
        if page.wrong.is_some() {
            return page.wrong;
        }
    }
    order.end()
}

#[test]
fn a_page_is_counted_and_its_token_decoded() {
    let expected = Page {
        keys: 2,
        common_prefixes: 1,
        next: Some(Next::Token("a&b/==".to_owned())),
        wrong: None,
    };
    assert_eq!(
        read_page(PAGE.as_bytes(), false, None).as_ref(),
        Ok(&expected)
    );
    let plan = plan("");
    let mut order = Order::new(&plan);
    let page = read_page(PAGE.as_bytes(), false, Some(&mut order));
    assert_eq!(page.as_ref(), Ok(&expected));
    assert_eq!(order.last.as_deref(), Some("b"));
}

#[test]
fn versions_of_a_key_follow_each_other() {
    let plan = plan("--versions");
    let mut order = Order::new(&plan);
    let page = read_page(VERSIONS.as_bytes(), true, Some(&mut order));
    let expected = Page {
        keys: 3,
        common_prefixes: 0,
        next: Some(Next::Markers("b".to_owned(), Some("v2".to_owned()))),
        wrong: None,
    };
    assert_eq!(page, Ok(expected));
    let again = read_page(VERSIONS.as_bytes(), true, Some(&mut order)).expect("a page");
    assert_eq!(
        again.wrong.as_deref(),
        Some("the listing is not in order at a")
    );
}

#[test]
fn every_key_is_to_be_listed_once_in_order() {
    let keys = ["p/0000000000", "p/0000000001", "p/0000000002"];
    let [a, b, c] = keys;
    assert_eq!(wrong_with("--keys 3", &[&[a, b], &[c]]), None);
    assert_eq!(wrong_with("--keys 3", &[&[a, b, c, "p/own/x/1"]]), None);
    assert_eq!(wrong_with("", &[&[a, c]]), None, "nobody said how many");
    assert_eq!(wrong_with("--keys 3 --start-after q", &[&[c]]), None);
    for (pages, what) in [
        (&[&[a, b][..], &[b, c]][..], "not in order"),
        (&[&[b, a, c]], "is not listed"),
        (&[&[a, c]], "p/0000000001 is not listed: p/0000000002 comes"),
        (&[&[a, b]], "it listed 2 keys, --keys says 3"),
        (&[&[a, b, c, "p/0000000003"]], "--keys says 3"),
        (&[&[a, "p/00000000005", b, c]], "nobody wrote it"),
        (&[&[a, b, c, "p/1"]], "nobody wrote it"),
    ] {
        let wrong = wrong_with("--keys 3", pages).expect("something is wrong");
        assert!(wrong.contains(what), "{wrong}");
    }
}

#[test]
fn broken_answers_are_errors() {
    let plan = plan("");
    assert!(read_page(b"<html>", false, None).is_err());
    assert!(read_page(PAGE.as_bytes(), true, None).is_err());
    let cut = b"<ListBucketResult><IsTruncated>true</IsTruncated>";
    assert!(read_page(cut, false, None).is_err());
    let cut = b"<ListVersionsResult><IsTruncated>true</IsTruncated>";
    assert!(read_page(cut, true, None).is_err());
    for cut in [
        "<ListBucketResult><Key>abc",
        "<ListBucketResult><Key>a&bogus;c</Key>",
    ] {
        let order = &mut Order::new(&plan);
        assert!(read_page(cut.as_bytes(), false, Some(order)).is_err());
    }
}

#[test]
fn elements_are_found_by_name() {
    let xml = b"<Error><Code>NoSuchKey</Code><Message>It&apos;s gone</Message></Error>";
    assert_eq!(element(xml, "Code"), Ok(Some("NoSuchKey".to_owned())));
    assert_eq!(element(xml, "Message"), Ok(Some("It's gone".to_owned())));
    assert_eq!(element(xml, "Key"), Ok(None));
}
