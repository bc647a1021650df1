//! Values of arguments that clap has no parser for. Messages name what would have been right.

use std::ops::RangeInclusive;
use std::time::Duration;

use quorate_client::Ttl;
use quorate_proto::size;

/// `500ms`, `5s`, `1.5s`, `2m`, `1h`; more than nothing and at most a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(86_400);
    let wrong = || format!("'{text}' is no time; write for example 500ms, 5s, 2m or 1h");
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| wrong())?;
    if duration < Duration::from_millis(1) || duration > DAY {
        return Err(format!("'{text}' is out of range; take 1ms to 24h"));
    }
    Ok(duration)
}

/// `500ms`, `10s`, `5m`, `12h`, `30d`, or `never`: how long a value is to live.
pub(crate) fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    let wrong = || {
        format!("'{text}' is no time to live; write for example 500ms, 10s, 5m, 12h, 30d, or never")
    };
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let unit_at = digits.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = digits.split_at(unit_at);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    // Only so many digits that they are no number are too many.
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    let ttl = ms.filter(|_| sign.is_empty()).map(Duration::from_millis);
    let ttl = ttl.filter(|ttl| (Ttl::MIN..=Ttl::MAX).contains(ttl));
    ttl.map(Ttl::After).ok_or_else(|| {
        format!("'{text}' is out of range; a value lives 1ms to 3650d (ten years), or never")
    })
}

/// `1024`, `64KiB`, `1MiB` and so on, within `range`.
pub(crate) fn bytes(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size = size::parse(text)?;
        let fits = u32::try_from(size).ok().filter(|size| range.contains(size));
        fits.ok_or_else(|| {
            format!("'{text}' is out of range; take {} to {} bytes", range.start(), range.end())
        })
    }
}

/// `HOST:PORT`.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("'{text}' is no endpoint; write HOST:PORT, for example 127.0.0.1:7401");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() && !host.contains('/') => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

/// One ASCII character that can stand between fields, or `\t`.
pub(crate) fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [b'"' | b'\n' | b'\r'] => Err("quotes and line ends cannot separate fields".to_owned()),
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(format!("'{text}' is not one ASCII character, nor \\t")),
    }
}
