//! Keys and values as text on a terminal, there and back.
//!
//! Printed by [`Escaped`]: printable ASCII as it is, the backslash doubled, all else as `\xNN`. [`unescape`]
//! reads the same, so what one command printed can be pasted into the next.

use crate::error::{Error, Result};
use crate::logging::Escaped;

/// Bytes as they are printed.
pub(super) fn escape(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

/// The bytes that `text` stands for. Text without a backslash stands for itself.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>> {
    let wrong = || {
        let what = "a backslash is followed by another one or by xNN, two hexadecimal digits";
        Error::Startup(format!("{text:?} is no key or value: {what}"))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        rest = match behind {
            [b'\\', behind @ ..] => {
                bytes.push(b'\\');
                behind
            }
            [b'x', high, low, behind @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = (digit(high).ok_or_else(wrong)?, digit(low).ok_or_else(wrong)?);
                bytes.push(
                    u8::try_from(16 * high + low).expect("two hexadecimal digits are a byte"),
                );
                behind
            }
            _ => return Err(wrong()),
        };
    }
    Ok(bytes)
}

/// Lines with their columns under each other; the first one is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_printed_can_be_read(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape(&bytes)).expect("printed by us"), bytes);
        }
    }

    #[test]
    fn plain_text_stands_for_itself_and_a_broken_escape_is_refused() {
        assert_eq!(unescape("hello wörld").expect("plain"), "hello wörld".as_bytes());
        for text in ["\\", "\\x", "\\x1", "\\xgg", "\\n"] {
            assert!(unescape(text).is_err(), "{text}");
        }
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
        assert_eq!(table(&[row(["id", "name"]), row(["10", ""])]), "id  name\n10\n");
    }
}
