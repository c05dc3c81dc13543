//! Times as the contract writes them: RFC 3339 in UTC with milliseconds.
//!
//! Invariant: independent of the product's own formatting, so that a wrong date there is noticed here.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const MS_PER_DAY: i64 = 86_400_000;

/// Milliseconds from the Unix epoch to `time`.
pub fn millis_since_epoch(time: SystemTime) -> i64 {
    let since = time
        .duration_since(UNIX_EPOCH)
        .expect("tests run after 1970");
    i64::try_from(since.as_millis()).expect("tests run before the year 292,000,000")
}

/// `2026-06-18T00:20:00.000Z` for the present moment moved by `offset_ms`.
pub fn rfc3339(offset_ms: i64) -> String {
    format_ms(millis_since_epoch(SystemTime::now()) + offset_ms)
}

fn format_ms(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3_600_000,
        of_day / 60_000 % 60,
        of_day / 1000 % 60,
        of_day % 1000
    )
}

/// Milliseconds since the Unix epoch of a time as the product prints it; a panic where it is not RFC 3339 in UTC.
#[track_caller]
pub fn parse_rfc3339_ms(text: &str) -> i64 {
    try_parse(text).unwrap_or_else(|| panic!("not an RFC 3339 time in UTC: {text:?}"))
}

fn try_parse(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = whole.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let digits = format!("{fraction:0<3}");
    let ms = digits.get(..3)?.parse::<i64>().ok()?;
    Some(
        days_from_civil(year, month, day) * MS_PER_DAY
            + hour * 3_600_000
            + minute * 60_000
            + second * 1000
            + ms,
    )
}

/// Days to a date of the Gregorian calendar and back: the algorithms of Howard Hinnant's "chrono-compatible low-level date algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// The moment of this process's monotonic clock that stands for `ms` since the epoch; the present one when it is past.
pub fn instant_at(ms: i64) -> Instant {
    // In this order and to the nanosecond, so that it is never later than the moment itself.
    let now = Instant::now();
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    now + at.duration_since(SystemTime::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_781_742_000_500, "2026-06-18T00:20:00.500Z"),
        ] {
            assert_eq!(format_ms(ms), text);
            assert_eq!(parse_rfc3339_ms(text), ms);
        }
        assert_eq!(parse_rfc3339_ms("2026-06-18T00:20:00Z"), 1_781_742_000_000);
    }
}
