//! Sizes and durations as people write them on a command line, and as they read them in a table.

use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written with its unit: `4KiB`, `64MiB`, `10MB`, `512B` or plain `512`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => {
                return Err(format!(
                    "`{text}` is not a size: write a whole number and B, KiB, MiB, GiB, TiB, KB, MB, GB or TB, as in `64MiB`"
                ));
            }
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(ByteSize)
            .ok_or_else(|| {
                format!("`{text}` is not a size: write a whole number and its unit, as in `64MiB`")
            })
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, factor) in [
            ("TiB", 1u64 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Parses `10s`, `500ms`, `2m` or `1h`; a number without its unit is refused, since it could mean anything.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let help =
        || format!("`{text}` is not a duration: write a number and ms, s, m or h, as in `10s`");
    let number: f64 = number.parse().map_err(|_| help())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(help()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| help())
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// A latency for a table: three significant digits and the unit that suits it.
pub fn show_nanos(nanos: u64) -> String {
    let value = nanos as f64;
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    format!("{}{unit}", show_number(value))
}

/// A number for a table: three significant digits, no more decimals than that needs.
pub fn show_number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{ByteSize, parse_duration, show_nanos, show_number};
    use std::time::Duration;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4KiB", 4096),
            ("4kib", 4096),
            ("64 MiB", 64 << 20),
            ("5GiB", 5 << 30),
            ("10MB", 10_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_what_to_write() {
        for text in [
            "",
            "KiB",
            "4K",
            "1.5MiB",
            "-1",
            "4 KiB x",
            "99999999999999999999",
            "99999999TiB",
        ] {
            let error = text.parse::<ByteSize>().expect_err(text);
            assert!(error.contains("64MiB"), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["0B", "512B", "4KiB", "64MiB", "1GiB", "1000B", "5TiB"] {
            assert_eq!(
                text.parse::<ByteSize>().map(|size| size.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "10", "s", "10 days", "-1s", "1e3s", "..s"] {
            assert!(
                parse_duration(text).is_err_and(|e| e.contains("10s")),
                "{text}"
            );
        }
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(show_nanos(999), "999ns");
        assert_eq!(show_nanos(1_234), "1.23us");
        assert_eq!(show_nanos(12_345_678), "12.3ms");
        assert_eq!(show_nanos(2_500_000_000), "2.50s");
        assert_eq!(show_number(0.0), "0.00");
        assert_eq!(show_number(0.0123), "0.0123");
        assert_eq!(show_number(1234.5), "1234");
    }
}
