//! Points in time as recordings write them, in microseconds since the Unix epoch. Local times are taken as UTC: no format
//! says which zone it means.

use super::digits::{Base, decimal, number, scaled, words};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// 1899-12-30, day 0 of spreadsheets and of TRC.
const SPREADSHEET_EPOCH_DAYS: i64 = -25_569;
/// Digits of the fraction of a day at most: far below a microsecond.
const DAY_FRACTION_DIGITS_MAX: usize = 18;
/// Beginnings of the months' names in English and German, in lower case; 0xe4 is the ä of ISO 8859-1.
const MONTHS: [&[&[u8]]; 12] = [
    &[b"jan"],
    &[b"feb"],
    &[b"mar", b"mrz", "mär".as_bytes(), b"m\xe4r"],
    &[b"apr"],
    &[b"may", b"mai"],
    &[b"jun"],
    &[b"jul"],
    &[b"aug"],
    &[b"sep"],
    &[b"oct", b"okt"],
    &[b"nov"],
    &[b"dec", b"dez"],
];

/// `Fri Feb 14 08:51:20.250 am 2020`, also without fraction, without `am` and with 24 hours, or without day of the week.
pub(super) fn named_date(text: &[u8]) -> Option<i64> {
    let mut words: Vec<&[u8]> = words(text).take(7).collect();
    if words.first().is_some_and(|word| month(word).is_none()) {
        words.remove(0);
    }
    let (half, year) = match words.get(3..)? {
        [year] => (None, year),
        [half, year] => (Some(*half), year),
        _ => return None,
    };
    let (month, day) = (month(words.first()?)?, two_digits(words.get(1)?)?);
    let year = Some(year).filter(|year| year.len() == 4).and_then(|year| number(year, Base::Dec))?;
    let days = days_from_civil(i64::from(year), month, day)?;
    (days * DAY_US).checked_add(time_of_day(words.get(2)?, half)?)
}

/// `43874.3730111290`: days since 1899-12-30, rounded to a microsecond.
pub(super) fn spreadsheet_days(text: &[u8]) -> Option<i64> {
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (days, fraction) = (number(&text[..dot], Base::Dec)?, text.get(dot + 1..).unwrap_or(b"0"));
    if fraction.is_empty() || fraction.len() > DAY_FRACTION_DIGITS_MAX {
        return None;
    }
    let unit = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = i128::from(decimal(fraction)?);
    let fraction_us = (fraction * i128::from(DAY_US) + unit / 2) / unit;
    let days = i64::from(days) + SPREADSHEET_EPOCH_DAYS;
    days.checked_mul(DAY_US)?.checked_add(i64::try_from(fraction_us).ok()?)
}

fn month(word: &[u8]) -> Option<i64> {
    let word = word.to_ascii_lowercase();
    let at = MONTHS.iter().position(|names| names.iter().any(|name| word.starts_with(name)))?;
    i64::try_from(at + 1).ok()
}

/// `08:51:20.250`; with `am` or `pm` in `half` 12 hours, though some writers put them behind 24 hours.
fn time_of_day(text: &[u8], half: Option<&[u8]>) -> Option<i64> {
    let mut parts = text.split(|byte| *byte == b':');
    let (hour, minute) = (two_digits(parts.next()?)?, two_digits(parts.next()?)?);
    let second_us = scaled(parts.next()?, 6)?;
    if hour > 23 || minute > 59 || second_us >= 60 * SECOND_US || parts.next().is_some() {
        return None;
    }
    let hour = match half {
        Some(half) if half.eq_ignore_ascii_case(b"am") && hour == 12 => 0,
        Some(half) if half.eq_ignore_ascii_case(b"pm") && hour < 12 => hour + 12,
        Some(half) if !half.eq_ignore_ascii_case(b"am") && !half.eq_ignore_ascii_case(b"pm") => return None,
        _ => hour,
    };
    Some((hour * 60 + minute) * 60 * SECOND_US + second_us)
}

fn two_digits(word: &[u8]) -> Option<i64> {
    Some(word).filter(|word| word.len() <= 2).and_then(|word| number(word, Base::Dec)).map(i64::from)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant's algorithm); `None` for a day that is none.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=days_of_month).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORNING_US: i64 = 1_581_670_280 * SECOND_US;

    #[test]
    fn dates_are_read_in_every_form_that_tools_write() {
        for (text, us) in [
            ("Fri Feb 14 08:51:20 am 2020", MORNING_US),
            ("Fri Feb 14 08:51:20.250 AM 2020", MORNING_US + 250_000),
            ("Fri Feb 14 08:51:20 pm 2020", MORNING_US + DAY_US / 2),
            ("Fre Feb 14 20:51:20.000 2020", MORNING_US + DAY_US / 2),
            ("Fri Feb 14 20:51:20 pm 2020", MORNING_US + DAY_US / 2),
            ("Feb 14 08:51:20 2020", MORNING_US),
            ("Thu Jan 1 12:00:00 am 1970", 0),
            ("Thu Jan 1 12:00:00 pm 1970", DAY_US / 2),
            ("Son Dez 31 23:59:59.999999 1899", -25_567 * DAY_US - 1),
        ] {
            assert_eq!(named_date(text.as_bytes()), Some(us), "{text}");
        }
        assert_eq!(named_date("Sam Mär 1 00:00:00 2025".as_bytes()), named_date(b"Sat Mar 1 00:00:00 2025"));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "Fri",
            "Feb 30 08:51:20 2020",
            "Feb 29 08:51:20 2021",
            "Feb 0 08:51:20 2020",
            "Feb 14 24:00:00 2020",
            "Feb 14 08:60:00 2020",
            "Feb 14 08:51:60 2020",
            "Feb 14 08:51 2020",
            "Feb 14 08:51:20:1 2020",
            "Feb 14 08:51:20 xm 2020",
            "Feb 14 24:51:20 pm 2020",
            "Feb 14 08:51:20 20",
            "Feb 14 08:51:20 am 2020 more",
            "Feb 014 08:51:20 2020",
            "14.02.2020 08:51:20",
        ] {
            assert_eq!(named_date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn days_of_spreadsheets_count_from_the_end_of_1899() {
        assert_eq!(spreadsheet_days(b"25569"), Some(0));
        assert_eq!(spreadsheet_days(b"25569.5"), Some(DAY_US / 2));
        // What PCAN-View writes for 18.12.2021 14:28:07.062: 10 decimals of a day are 8.64 us.
        let start_us = named_date(b"Dec 18 14:28:07.062 2021").unwrap();
        assert_eq!(spreadsheet_days(b"44548.6028595139"), Some(start_us + 1));
        for wrong in ["", ".5", "1.", "1,5", "-1.0", "1.0000000000000000000", "4294967296.0"] {
            assert_eq!(spreadsheet_days(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
