//! How people write numbers of bytes, to nodes and to tools alike.

/// `1024`, `64KiB`, `1MiB`; also `k`, `m` and `g` for the same, and `kB`, `MB` and `GB` for powers of
/// a thousand. What is none is named, with what would have been right.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write for example 1000, 64KiB or 1MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit {
        "" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit_bytes).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in
            [("0", 0), ("7B", 7), ("64KiB", 65_536), ("2m", 2 << 20), ("1kB", 1000)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "1 MiB", "1TB", "99999999999GiB"] {
            assert!(parse(text).unwrap_err().contains("is no size; write for example"), "{text}");
        }
    }
}
