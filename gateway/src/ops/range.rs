//! `Range` (RFC 9110, section 14; API reference, GetObject: one range a request).

use std::ops::Range;

use crate::error::{Code, S3Error};

/// What part of an object a header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Everything: no header, one that is not understood, or several ranges.
    Whole,
    /// These bytes, clipped to the object; never empty.
    Part(Range<u64>),
}

/// Reads `header` for an object of `size` bytes. A range that has no byte of the object is `InvalidRange`.
pub fn asked(header: &str, size: u64) -> Result<Asked, S3Error> {
    let Some((first, last)) = parse(header) else {
        return Ok(Asked::Whole);
    };
    let range = match (first, last) {
        (Some(first), Some(last)) if first > last => return Ok(Asked::Whole),
        (Some(first), Some(last)) => first..size.min(last.saturating_add(1)),
        (Some(first), None) => first..size,
        // The last bytes of nothing are all that there are.
        (None, Some(1..)) if size == 0 => return Ok(Asked::Whole),
        (None, Some(suffix)) => size.saturating_sub(suffix)..size,
        (None, None) => return Ok(Asked::Whole),
    };
    if range.start < range.end {
        Ok(Asked::Part(range))
    } else {
        Err(unsatisfiable(header, size))
    }
}

/// `InvalidRange`, with the size of the object.
pub fn unsatisfiable(header: &str, size: u64) -> S3Error {
    S3Error::new(Code::InvalidRange)
        .detail("RangeRequested", header)
        .detail("ActualObjectSize", size.to_string())
}

/// `bytes=first-last`: both, one of the two, or `None` for anything else.
fn parse(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, ranges) = header.trim().split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = ranges.split_once('-')?;
    Some((number(first)?, number(last)?))
}

/// `Some(None)` for nothing, `None` for what is not a number. Numbers beyond 64 bits are as good as infinite.
fn number(text: &str) -> Option<Option<u64>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if text.is_empty() {
        return Some(None);
    }
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

/// The range of an `x-amz-copy-source-range`: strictly `bytes=first-last`, inside the source.
pub fn copy_range(header: &str, size: u64) -> Result<Range<u64>, S3Error> {
    let syntax = || {
        super::failure::invalid_argument(
            "x-amz-copy-source-range",
            header,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
        )
    };
    let Some((Some(first), Some(last))) = parse(header) else {
        return Err(syntax());
    };
    if first > last {
        return Err(syntax());
    }
    if last >= size {
        return Err(S3Error::with(
            Code::InvalidRange,
            format!("Range specified is not valid for source object of size: {size}"),
        )
        .status(400)
        .detail("RangeRequested", header)
        .detail("ActualObjectSize", size.to_string()));
    }
    Ok(first..last + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    #[test]
    fn reads_ranges() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Ok(Asked::Part(0..1))),
            ("bytes=0-", 10, Ok(Asked::Part(0..10))),
            ("bytes=3-100", 10, Ok(Asked::Part(3..10))),
            ("bytes=-3", 10, Ok(Asked::Part(7..10))),
            ("bytes=-30", 10, Ok(Asked::Part(0..10))),
            (" Bytes=1-2 ", 10, Ok(Asked::Part(1..3))),
            ("bytes = 1-2", 10, Ok(Asked::Whole)),
            ("bytes= -1", 10, Ok(Asked::Whole)),
            ("bytes=0 -1", 10, Ok(Asked::Whole)),
            ("bytes=0- 1", 10, Ok(Asked::Whole)),
            (
                "bytes=9-99999999999999999999999",
                10,
                Ok(Asked::Part(9..10)),
            ),
            ("bytes=0-18446744073709551615", 10, Ok(Asked::Part(0..10))),
            ("bytes=10-", 10, Err(Code::InvalidRange)),
            ("bytes=10-20", 10, Err(Code::InvalidRange)),
            ("bytes=-0", 10, Err(Code::InvalidRange)),
            ("bytes=0-", 0, Err(Code::InvalidRange)),
            ("bytes=-1", 0, Ok(Asked::Whole)),
            ("bytes=-0", 0, Err(Code::InvalidRange)),
            ("bytes=5-2", 10, Ok(Asked::Whole)),
            ("bytes=-", 10, Ok(Asked::Whole)),
            ("bytes=", 10, Ok(Asked::Whole)),
            ("bytes=a-b", 10, Ok(Asked::Whole)),
            ("bytes=+1-2", 10, Ok(Asked::Whole)),
            ("bytes=0-1,3-4", 10, Ok(Asked::Whole)),
            ("lines=0-1", 10, Ok(Asked::Whole)),
            ("", 10, Ok(Asked::Whole)),
        ] {
            let found = asked(header, size).map_err(|error| error.code);
            assert_eq!(found, expected, "{header} of {size}");
        }
    }

    #[test]
    fn copy_ranges_are_strict() {
        assert_eq!(copy_range("bytes=0-9", 10).unwrap(), 0..10);
        for (header, code) in [
            ("bytes=0-10", Code::InvalidRange),
            ("bytes=0-", Code::InvalidArgument),
            ("bytes=-5", Code::InvalidArgument),
            ("bytes=5-2", Code::InvalidArgument),
            ("0-5", Code::InvalidArgument),
        ] {
            assert_eq!(copy_range(header, 10).unwrap_err().code, code, "{header}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_inside(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Ok(Asked::Part(range)) = asked(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn never_panics(header in ".{0,40}", size in any::<u64>()) {
            let _ = asked(&header, size);
            let _ = copy_range(&header, size);
        }
    }
}
