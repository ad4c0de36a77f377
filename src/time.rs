//! Times as people write them, and as the store keeps them: UTC, microseconds since 1970.
//!
//! The dates are Howard Hinnant's `civil_from_days` and `days_from_civil` (<https://howardhinnant.github.io/date_algorithms.html>): years begin
//! in March, so that the leap day is the last of one, and 400 of them are 146,097 days.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_US: i64 = 86_400_000_000;

/// Days from the first of March of the year 0 to the first of January of 1970.
const DAYS_TO_1970: i64 = 719_468;

/// Now.
pub(crate) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// A time as RFC 3339 has it, in UTC: `2024-02-29T12:34:56.789012Z`.
pub(crate) fn rfc3339(us: i64) -> String {
    let (days, us_of_day) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, us) = (us_of_day / 1_000_000, us_of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// The time that RFC 3339 text is: a date, `T` or a space, a time, perhaps with a fraction of a second, and `Z` or an offset like `+02:00`.
/// What is finer than a microsecond is cut off.
///
/// # Errors
/// What is wrong with it, for a person.
pub(crate) fn parse_rfc3339(text: &str) -> Result<i64, String> {
    parse(text)
        .ok_or_else(|| "is no time as RFC 3339 has it, like 2024-02-29T12:34:56Z or 2024-02-29T12:34:56.5+01:00".to_owned())
}

fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?,
        None => ("0", rest),
    };
    let us: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [2, 2])?;
            (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))?
        }
    };
    let days_of_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // A leap second is taken for the one after it.
    if fraction.is_empty() || !(1..=12).contains(&month) || !(1..=days_of_month).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    Some((days_from_civil(year, month, day) * 86_400 + seconds) * 1_000_000 + us)
}

/// Unsigned numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        *number = Some(part).filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - DAYS_TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_in_utc_and_read_back() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (-1, "1969-12-31T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_799, "2000-02-29T23:59:59"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_210_096, "2024-02-29T12:34:56"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let us = seconds * 1_000_000 + 789;
            assert_eq!(rfc3339(us), format!("{text}.000789Z"));
            assert_eq!(parse_rfc3339(&rfc3339(us)), Ok(us));
        }
    }

    #[test]
    fn a_time_may_have_an_offset_and_any_fraction() {
        let us = 1_709_210_096_500_000;
        for text in [
            "2024-02-29T12:34:56.5Z",
            "2024-02-29t12:34:56.500000999z",
            "2024-02-29 14:04:56.50+01:30",
            "2024-02-29T00:34:56.5-12:00",
        ] {
            assert_eq!(parse_rfc3339(text), Ok(us), "{text}");
        }
        for text in [
            "",
            "2024-02-29",
            "2024-02-29T12:34:56",
            "2024-02-29T12:34:56.Z",
            "2024-02-29T12:34:56,5Z",
            "2023-02-29T12:34:56Z",
            "2024-13-01T12:34:56Z",
            "2024-02-29T24:00:00Z",
            "2024-02-29T12:60:00Z",
            "+024-02-29T12:34:56Z",
            "2024-02-29T12:34:56+1:00",
            "2024-02-29T12:34:56Zx",
            "2024-02-29T12:34:56+24:00",
            "2024-2-29T12:34:56Z",
            "é024-02-29T12:34:56Z",
        ] {
            assert!(parse_rfc3339(text).is_err(), "{text}");
        }
    }
}
