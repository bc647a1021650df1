//! Rows to import: UnicodeData.txt in miniature, or the file itself.

use std::fmt::Write as _;

/// Rows in the shape of UnicodeData.txt: 15 fields separated by semicolons, the first one unique.
pub fn unicode_like(rows: u32) -> String {
    let mut text = String::new();
    for row in 0..rows {
        let code = 0x20 + row * 7;
        let category = ["Lu", "Ll", "Mn", "So"][row as usize % 4];
        // Names hold what parsers trip over: commas, brackets, quotes, letters beyond ASCII.
        let name = ["LETTER \"A\"", "<control>", "SIGN, SMALL", "ZEICHEN Ü"][row as usize / 3 % 4];
        let decimal = if row % 10 == 0 { row.to_string() } else { String::new() };
        writeln!(
            text,
            "{code:04X};{name} {row};{category};0;L;;{decimal};;;N;;;;{:04X};",
            code + 1
        )
        .expect("a string takes all");
    }
    text
}

/// Where Debian's package `unicode-data` puts the file.
const UNICODE_DATA: &str = "/usr/share/unicode/UnicodeData.txt";

/// UnicodeData.txt: all of it if `QUORATE_UNICODE_DATA` names it; else `rows` rows of it if it is
/// installed, spread over the file; else as many rows like it.
pub fn unicode(rows: u32) -> String {
    if let Some(path) = std::env::var_os("QUORATE_UNICODE_DATA") {
        return std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    }
    let Ok(whole) = std::fs::read_to_string(UNICODE_DATA) else { return unicode_like(rows) };
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let step = (lines.len() / rows as usize).max(1);
    lines.into_iter().step_by(step).take(rows as usize).collect()
}

/// The lines of a text in byte order: how two exports are compared.
pub fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}
