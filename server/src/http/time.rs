//! Times as the contract writes them: RFC 3339 in UTC with milliseconds, `2026-06-18T00:20:00.000Z`.
//!
//! Invariant: every time from 1970 to the start of the year 2500 is read back as it was written.

use qiang_engine::UnixMs;
use qiang_engine::limits::TIME_MS_MAX;
use serde::{Serialize, Serializer};

/// Length of a written time in bytes.
pub(super) const TIME_BYTES: usize = 24;

/// The last millisecond that four digits of a year can name. No time that the engine accepts comes near it.
const LAST_MS: u64 = 253_402_300_799_999;

const MS_PER_DAY: u64 = 86_400_000;

/// A time to be written as JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) UnixMs);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = write_time(self.0);
        let text = std::str::from_utf8(&bytes).expect("digits and punctuation");
        serializer.serialize_str(text)
    }
}

/// The time as text. Written by hand because every granted order carries one.
pub(super) fn write_time(at: UnixMs) -> [u8; TIME_BYTES] {
    let ms = at.0.min(LAST_MS);
    let (year, month, day) = civil_from_days(ms / MS_PER_DAY);
    let in_day = ms % MS_PER_DAY;
    let mut out = *b"0000-00-00T00:00:00.000Z";
    put_digits(&mut out[0..4], year);
    put_digits(&mut out[5..7], month);
    put_digits(&mut out[8..10], day);
    put_digits(&mut out[11..13], in_day / 3_600_000);
    put_digits(&mut out[14..16], in_day / 60_000 % 60);
    put_digits(&mut out[17..19], in_day / 1000 % 60);
    put_digits(&mut out[20..23], in_day % 1000);
    out
}

/// Reads an RFC 3339 time with any offset; digits past the millisecond are dropped.
///
/// # Errors
/// What is wrong with it, to stand behind the name of its member.
pub(super) fn parse_time(text: &str) -> Result<UnixMs, String> {
    const EXAMPLE: &str = "write an RFC 3339 time such as 2026-06-18T00:00:00Z";
    // jiff reads more forms than RFC 3339 has: spaces, shortened times, zones by name.
    let bytes = text.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let in_form = bytes.len() >= 20
        && marks
            .iter()
            .all(|(at, mark)| bytes[*at].eq_ignore_ascii_case(mark))
        && !bytes.contains(&b'[');
    if !in_form {
        return Err(format!("{text:?} is not a time: {EXAMPLE}"));
    }
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|error| format!("{text:?} is not a time ({error}): {EXAMPLE}"))?;
    let range = "times are from 1970-01-01T00:00:00Z to 2500-01-01T00:00:00Z";
    let ms = u64::try_from(at.as_millisecond())
        .map_err(|_| format!("{text:?} is out of range: {range}"))?;
    if ms > TIME_MS_MAX {
        return Err(format!("{text:?} is out of range: {range}"));
    }
    Ok(UnixMs(ms))
}

fn put_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days that are not negative.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ms: u64) -> String {
        String::from_utf8(write_time(UnixMs(ms)).to_vec()).unwrap()
    }

    #[test]
    fn times_are_written_as_a_second_implementation_writes_them() {
        // Steps of 17.3 days meet every month, every day of a month and both kinds of century.
        for ms in (0..=TIME_MS_MAX).step_by(1_494_720_123) {
            let at = jiff::Timestamp::from_millisecond(ms.cast_signed()).unwrap();
            assert_eq!(written(ms), format!("{at:.3}"), "{ms}");
            assert_eq!(parse_time(&written(ms)), Ok(UnixMs(ms)));
        }
        assert_eq!(written(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(written(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(written(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn offsets_are_turned_into_utc_and_fractions_into_milliseconds() {
        let read = |text| parse_time(text).unwrap().0;
        assert_eq!(read("1970-01-01T08:00:00+08:00"), 0);
        assert_eq!(read("1970-01-01T00:00:01.2349Z"), 1234);
        assert_eq!(read("1970-01-01t00:00:01z"), 1000);
        assert_eq!(read("2500-01-01T00:00:00Z"), TIME_MS_MAX);
    }

    #[test]
    fn what_is_no_time_or_out_of_range_is_refused() {
        for text in [
            "",
            "tomorrow",
            "0",
            "2026-06-18",
            "2026-06-18 00:00",
            "2026-06-18 00:00:00Z",
            "2026-06-18T00:00:00",
            "20260618T000000Z00000",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-06-18T25:00:00Z",
            "2026-06-18T00:00:00+08:00[Asia/Shanghai]",
            "99999-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2500-01-01T00:00:00.001Z",
            "订单订单订单订单订单订单订单",
        ] {
            assert!(parse_time(text).is_err(), "{text:?} was taken");
        }
    }
}
