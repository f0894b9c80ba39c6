//! `multipart/form-data` (RFC 7578) as it streams: fields first, then one file.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;

use super::Payload;
use crate::error::{Code, S3Error};

/// Bytes of all that comes before the file at most, as in S3.
const FIELDS_LEN_MAX: usize = 20 * 1024;

/// Bytes of a part's headers at most.
const PART_HEADERS_LEN_MAX: usize = 4 * 1024;

/// Bytes that are read of what follows the file at most; S3 ignores it too.
const REST_LEN_MAX: u64 = 64 * 1024;

/// A form under way.
pub struct Form {
    payload: Payload,
    buffer: BytesMut,
    /// `\r\n--` and the boundary.
    delimiter: Vec<u8>,
    /// Bytes of headers and fields so far.
    fields_len: usize,
    file_ended: bool,
}

/// The head of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    /// The last segment of the path that a browser says.
    pub file_name: Option<String>,
    pub content_type: Option<String>,
}

fn malformed(what: &'static str) -> S3Error {
    S3Error::with(
        Code::MalformedPOSTRequest,
        format!("The body of your POST request is not well-formed multipart/form-data: {what}"),
    )
}

/// The boundary that `Content-Type` announces.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let boundary = parameter(value, "boundary")?;
    // RFC 2046, 5.1.1.
    ((1..=70).contains(&boundary.len())).then_some(boundary)
}

/// A parameter of a header's value; quoted ones may hold escaped quotes.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        rest = rest.trim_start();
        let (name, after) = rest.split_once('=')?;
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut text = String::new();
                let mut escaped = false;
                let mut end = None;
                for (at, character) in quoted.char_indices() {
                    match (escaped, character) {
                        (false, '"') => {
                            end = Some(at + 1);
                            break;
                        }
                        // Browsers escape nothing but quotes: a backslash is part of a path.
                        (false, '\\') if quoted[at + 1..].starts_with('"') => escaped = true,
                        _ => {
                            escaped = false;
                            text.push(character);
                        }
                    }
                }
                (text, &quoted[end?..])
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        if name.trim_end().eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = after.trim_start().strip_prefix(';')?;
    }
}

impl Form {
    /// Begins to read the form that `payload` holds. Errors: there is no boundary.
    pub fn new(payload: Payload, headers: &HeaderMap) -> Result<Self, S3Error> {
        let boundary =
            boundary(headers).ok_or_else(|| malformed("Content-Type has no boundary."))?;
        let mut delimiter = b"\r\n--".to_vec();
        delimiter.extend_from_slice(boundary.as_bytes());
        Ok(Self {
            payload,
            // The first delimiter begins the body: as if a line had ended before.
            buffer: BytesMut::from(&b"\r\n"[..]),
            delimiter,
            fields_len: 0,
            file_ended: false,
        })
    }

    async fn fill(&mut self) -> Result<(), S3Error> {
        match self.payload.next().await? {
            Some(bytes) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            None => Err(malformed("it ends too early.")),
        }
    }

    /// Bytes up to `end`, which is read too; they count as fields.
    async fn read_until(&mut self, end: &[u8], len_max: usize) -> Result<Bytes, S3Error> {
        let mut searched = 0;
        loop {
            if let Some(at) = memmem::find(&self.buffer[searched..], end) {
                let found = self.buffer.split_to(searched + at).freeze();
                let _end = self.buffer.split_to(end.len());
                self.fields_len += found.len();
                if found.len() > len_max || self.fields_len > FIELDS_LEN_MAX {
                    break;
                }
                return Ok(found);
            }
            if self.buffer.len() > len_max + end.len() {
                break;
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            self.fill().await?;
        }
        Err(S3Error::new(Code::MaxPostPreDataLengthExceeded))
    }

    /// The next part's head; `None`: there is none. What comes before the first delimiter is skipped.
    pub async fn next_part(&mut self) -> Result<Option<Part>, S3Error> {
        if self.fields_len == 0 {
            let delimiter = self.delimiter.clone();
            self.read_until(&delimiter, FIELDS_LEN_MAX).await?;
        }
        while self.buffer.len() < 2 {
            self.fill().await?;
        }
        match &self.buffer.split_to(2)[..] {
            b"\r\n" => {}
            b"--" => return Ok(None),
            _ => return Err(malformed("a delimiter is not followed by a line.")),
        }
        // A part without headers would end at once; with the line before, it ends like any other.
        let head = self.read_until(b"\r\n\r\n", PART_HEADERS_LEN_MAX).await?;
        self.fields_len += 1;
        let head =
            std::str::from_utf8(&head).map_err(|_| malformed("a part's head is not UTF-8."))?;
        let header = |wanted: &str| {
            head.split("\r\n").find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.trim()
                    .eq_ignore_ascii_case(wanted)
                    .then(|| value.trim())
            })
        };
        let disposition = header("content-disposition")
            .filter(|value| value.to_ascii_lowercase().starts_with("form-data"))
            .ok_or_else(|| malformed("a part has no Content-Disposition of form-data."))?;
        let name =
            parameter(disposition, "name").ok_or_else(|| malformed("a part has no name."))?;
        let file_name = parameter(disposition, "filename").map(|path| {
            let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
            last.to_owned()
        });
        Ok(Some(Part {
            name,
            file_name,
            content_type: header("content-type").map(str::to_owned),
        }))
    }

    /// The text of the part whose head was just read.
    pub async fn field(&mut self) -> Result<String, S3Error> {
        let delimiter = self.delimiter.clone();
        let value = self.read_until(&delimiter, FIELDS_LEN_MAX).await?;
        String::from_utf8(value.to_vec()).map_err(|_| malformed("a field is not UTF-8."))
    }

    /// The next bytes of the file whose head was just read, not empty. `None`: it is whole, and so is the form.
    pub async fn file(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if self.file_ended {
                return Ok(None);
            }
            if let Some(at) = memmem::find(&self.buffer, &self.delimiter) {
                let last = self.buffer.split_to(at).freeze();
                self.file_ended = true;
                self.skip_rest().await?;
                match last.is_empty() {
                    true => continue,
                    false => return Ok(Some(last)),
                }
            }
            // The delimiter may have begun.
            let sure = (self.buffer.len() + 1).saturating_sub(self.delimiter.len());
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.fill().await?;
        }
    }

    /// Reads what follows the file, so that what was announced of the whole body is verified.
    async fn skip_rest(&mut self) -> Result<(), S3Error> {
        self.buffer.clear();
        let mut left = REST_LEN_MAX;
        while let Some(bytes) = self.payload.next().await? {
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| malformed("too much follows the file."))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        let value = "form-data; name=\"a b\"; filename=\"c:\\\\dir\\x \\\"y\\\".txt\" ; other=z";
        assert_eq!(parameter(value, "name").as_deref(), Some("a b"));
        assert_eq!(
            parameter(value, "FileName").as_deref(),
            Some("c:\\\\dir\\x \"y\".txt")
        );
        assert_eq!(parameter(value, "other").as_deref(), Some("z"));
        assert_eq!(parameter(value, "none"), None);
        assert_eq!(parameter("form-data", "name"), None);
        assert_eq!(parameter("form-data; name=\"a", "name"), None);
    }
}
