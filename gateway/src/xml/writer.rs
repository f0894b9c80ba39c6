//! Writes XML straight into one buffer.

use bytes::Bytes;
use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::Etag;

/// What each byte becomes in element text: 0 stays, else an index of [`ESCAPES`], or [`CONTROL`].
const TEXT: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = CONTROL;
        byte += 1;
    }
    table[b'&' as usize] = 1;
    table[b'<' as usize] = 2;
    table[b'>' as usize] = 3;
    table[b'"' as usize] = 4;
    table[b'\'' as usize] = 5;
    table
};
const ESCAPES: [&[u8]; 6] = [b"", b"&amp;", b"&lt;", b"&gt;", b"&quot;", b"&apos;"];
/// A control character: written as a numeric reference, as S3 does, so that CR and LF survive the parser's
/// normalisation. (References to most of them are not legal XML 1.0; clients ask for `encoding-type=url` then.)
const CONTROL: u8 = 0xFF;

/// Bytes that `encoding-type=url` leaves as they are.
const URI_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || b == b'-'
            || b == b'_'
            || b == b'.'
            || b == b'~'
            || b == b'/'
            || b == b'*';
        byte += 1;
    }
    table
};

const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";
const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";

/// An XML document under construction. Names of elements are literals of the code, and are trusted.
pub struct XmlWriter {
    buf: Vec<u8>,
}

impl XmlWriter {
    /// A document whose root is `root` in S3's namespace, with room for `capacity` bytes.
    pub fn new(root: &str, capacity: usize) -> Self {
        let mut writer = Self::bare(capacity);
        writer.buf.push(b'<');
        writer.raw(root.as_bytes());
        writer.raw(b" xmlns=\"");
        writer.raw(super::NAMESPACE.as_bytes());
        writer.raw(b"\">");
        writer
    }

    /// A document of which only the declaration is there.
    pub fn bare(capacity: usize) -> Self {
        let mut buf = Vec::with_capacity(capacity.max(256));
        buf.extend_from_slice(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        Self { buf }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// `<name>`
    pub fn open(&mut self, name: &str) {
        self.buf.push(b'<');
        self.raw(name.as_bytes());
        self.buf.push(b'>');
    }

    /// `</name>`
    pub fn close(&mut self, name: &str) {
        self.raw(b"</");
        self.raw(name.as_bytes());
        self.buf.push(b'>');
    }

    /// `<name>text</name>`, escaped.
    pub fn text(&mut self, name: &str, text: &str) {
        self.open(name);
        escape_into(&mut self.buf, text);
        self.close(name);
    }

    /// `text`, escaped, inside the element that is open.
    pub fn value(&mut self, text: &str) {
        escape_into(&mut self.buf, text);
    }

    /// `<name>text</name>`, percent-encoded if `uri`, else escaped (`encoding-type`).
    pub fn key(&mut self, name: &str, text: &str, uri: bool) {
        self.open(name);
        if uri {
            encode_uri_into(&mut self.buf, text);
        } else {
            escape_into(&mut self.buf, text);
        }
        self.close(name);
    }

    /// `<name>number</name>`
    pub fn number(&mut self, name: &str, number: u64) {
        self.open(name);
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.raw(&digits[at..]);
        self.close(name);
    }

    /// `<name>true</name>`
    pub fn boolean(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    /// `<ETag>"..."</ETag>`
    pub fn etag(&mut self, etag: &Etag) {
        self.raw(b"<ETag>&quot;");
        let (md5, parts) = match etag {
            Etag::Md5(md5) => (md5, None),
            Etag::Multipart(md5, parts) => (md5, Some(*parts)),
        };
        let mut hex = [0u8; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(md5) {
            pair[0] = HEX_LOWER[usize::from(byte >> 4)];
            pair[1] = HEX_LOWER[usize::from(byte & 15)];
        }
        self.raw(&hex);
        if let Some(parts) = parts {
            self.raw(format!("-{parts}").as_bytes());
        }
        self.raw(b"&quot;</ETag>");
    }

    /// `<name>2009-10-12T17:50:30.000Z</name>`: whole seconds, as in `Last-Modified`.
    pub fn time(&mut self, name: &str, time: UnixMillis) {
        self.open(name);
        self.raw(&iso8601(time.secs()));
        self.close(name);
    }

    /// Closes `root` and gives the document.
    pub fn finish(mut self, root: &str) -> Bytes {
        self.close(root);
        Bytes::from(self.buf)
    }
}

/// Appends `text` with what XML reserves escaped.
fn escape_into(buf: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = TEXT[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        buf.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        if escape == CONTROL {
            buf.extend_from_slice(b"&#x");
            if byte >= 16 {
                buf.push(b'1');
            }
            buf.push(HEX_UPPER[usize::from(byte & 15)]);
            buf.push(b';');
        } else {
            buf.extend_from_slice(ESCAPES[usize::from(escape)]);
        }
    }
    buf.extend_from_slice(&bytes[plain_from..]);
}

/// Appends `text` as `encoding-type=url` wants it. A space becomes `%20`, which decoders of both schools understand.
pub fn encode_uri_into(buf: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        if URI_PLAIN[usize::from(byte)] {
            buf.push(byte);
        } else {
            buf.push(b'%');
            buf.push(HEX_UPPER[usize::from(byte >> 4)]);
            buf.push(HEX_UPPER[usize::from(byte & 15)]);
        }
    }
}

/// Seconds since 1970 as `YYYY-MM-DDTHH:MM:SS.000Z` (days to civil date: Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn iso8601(secs: u64) -> [u8; 24] {
    let days = secs / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, secs % 86_400 / 3_600);
    put(14, 2, secs % 3_600 / 60);
    put(17, 2, secs % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(write: impl FnOnce(&mut XmlWriter)) -> String {
        let mut writer = XmlWriter::new("R", 0);
        write(&mut writer);
        String::from_utf8(writer.finish("R").to_vec()).unwrap()
    }

    #[test]
    fn writes_what_s3_writes() {
        let text = document(|w| {
            w.text("A", "a<b>&\"c'\r\n\u{1}\u{1f}é");
            w.number("N", 0);
            w.number("N", u64::MAX);
            w.key("K", "a b+ä/~%", true);
            w.etag(&Etag::Multipart([0xab; 16], 12));
            w.time("T", UnixMillis(1_255_369_830_999));
        });
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <R xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <A>a&lt;b&gt;&amp;&quot;c&apos;&#xD;&#xA;&#x1;&#x1F;é</A>\
             <N>0</N><N>18446744073709551615</N>\
             <K>a%20b%2B%C3%A4/~%25</K>\
             <ETag>&quot;abababababababababababababababab-12&quot;</ETag>\
             <T>2009-10-12T17:50:30.000Z</T></R>"
        );
    }

    #[test]
    fn dates_agree_with_the_time_crate() {
        for day in 0..60_000u64 {
            let secs = day * 86_400 + day % 86_400;
            let date = time::OffsetDateTime::from_unix_timestamp(secs as i64).unwrap();
            let expected = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000Z",
                date.year(),
                u8::from(date.month()),
                date.day(),
                date.hour(),
                date.minute(),
                date.second()
            );
            assert_eq!(std::str::from_utf8(&iso8601(secs)).unwrap(), expected);
        }
    }
}
