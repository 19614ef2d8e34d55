//! How the JSON interface writes sizes, times and keys. Used by the shapes and the router.

use std::time::Duration;

/// Bytes as upper-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The bytes that `text` stands for in a path: `%7A` is one byte, a percent sign that no two digits
/// follow is itself.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = match (first, behind) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

/// The bytes of hexadecimal digits of either case.
pub(super) fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A size in the largest unit that leaves at least 1, with up to three decimals: `1.816TiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    // Three decimals are exact enough for a size that people read.
    let scaled = bytes as f64 / (1u64 << (10 * unit)) as f64;
    let number = format!("{scaled:.3}");
    let number = number.trim_end_matches('0').trim_end_matches('.');
    format!("{number}{}", UNITS[unit])
}

/// A length of time as PD's configuration has it: like [`duration`], but exact: `1m0.5s`.
pub(super) fn exact_duration(length: Duration) -> String {
    let text = duration(length);
    match length.subsec_millis() {
        0 => text,
        milliseconds => {
            let fraction = format!("{milliseconds:03}");
            format!("{}.{}s", text.trim_end_matches('s'), fraction.trim_end_matches('0'))
        }
    }
}

/// The length of time that `1h30m`, `0.5s` or `250ms` stands for.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|it: char| it.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * length;
        rest = behind;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

/// A length of time as `26h3m9s`.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{}s", seconds % 60),
        _ => format!("{hours}h{minutes}m{}s", seconds % 60),
    }
}

/// A time in UTC as RFC 3339 has it, which programs parse: `2026-03-01T12:00:00.250Z`.
pub(super) fn calendar(wall_ms: u64) -> String {
    let (seconds, milliseconds) = (wall_ms / 1_000, wall_ms % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Year, month and day of a day counted from 1970. A year is taken to begin in March, so that the leap day
/// is its last and months have lengths by one formula.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    // Days since 1 March of year 0; 400 years have 146,097 days.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_path() {
        assert_eq!(percent_decoded("abc"), b"abc");
        assert_eq!(percent_decoded("r%00%00%00%FF/%2f"), b"r\0\0\0\xff//");
        assert_eq!(percent_decoded("100%"), b"100%");
        assert_eq!(percent_decoded("%zz%4"), b"%zz%4");
        assert_eq!(hexadecimal(b"r\0\xfa"), "7200FA");
    }

    #[test]
    fn sizes_and_lengths_are_for_people() {
        let sizes = [0, 1_023, 1_536, 1 << 30, (1 << 40) + (1 << 39), u64::MAX].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1.5KiB", "1GiB", "1.5TiB", "16EiB"]);
        let lengths = [0, 59, 60, 3_599, 3_600, 93_784].map(Duration::from_secs).map(duration);
        assert_eq!(lengths, ["0s", "59s", "1m0s", "59m59s", "1h0m0s", "26h3m4s"]);
    }

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for text in ["0s", "10s", "0.25s", "10m0s", "1h0m1.5s", "26h3m4s"] {
            let length = parse_duration(text).expect(text);
            assert_eq!(exact_duration(length), text);
        }
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
        for nonsense in ["", "10", "s", "1d", "-1s", "1s2", "1..0s", "99999999999999999999999h"] {
            assert_eq!(parse_duration(nonsense), None, "{nonsense}");
        }
        assert_eq!(from_hexadecimal("7a00fF"), Some(b"z\0\xff".to_vec()));
        assert_eq!(["7", "7x", "7a0"].map(from_hexadecimal), [None, None, None]);
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        assert_eq!(calendar(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(calendar(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(calendar(951_868_800_000), "2000-03-01T00:00:00.000Z");
        assert_eq!(calendar(1_709_164_799_999), "2024-02-28T23:59:59.999Z");
        assert_eq!(calendar(1_709_164_800_000), "2024-02-29T00:00:00.000Z");
        assert_eq!(calendar(1_735_689_599_250), "2024-12-31T23:59:59.250Z");
        assert_eq!(calendar(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
