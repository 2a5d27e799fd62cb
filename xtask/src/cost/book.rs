//! The data file: prices, quotas and measured sizes, each figure with its source.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The file of the repository; a new month gets a new file.
const DATA: &str = include_str!("../../data/aws-prices-2026-11.toml");
/// The region whose prices stand in where a region has none of its own.
pub(crate) const HOME_REGION: &str = "us-east-1";
/// The regions with quotas in the data file.
pub(crate) const REGIONS: [&str; 2] = [HOME_REGION, "eu-central-1"];

/// How a figure is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// A vendor's page.
    Documented,
    /// From memory: to be checked.
    Recalled,
    /// By us, with a command of ours.
    Measured,
}

impl Source {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Recalled => "recalled",
            Self::Measured => "measured",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    /// Units a month up to which the tier reaches; without it, all the rest.
    up_to: Option<f64>,
    value: f64,
}

/// A unit price.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    pub(crate) name: String,
    region: Option<String>,
    pub(crate) unit: String,
    per: f64,
    value: Option<f64>,
    #[serde(default)]
    tiers: Vec<Tier>,
    pub(crate) source: Source,
    #[expect(dead_code, reason = "for who reads the file; parsed so that it may be there")]
    note: Option<String>,
}

impl Price {
    /// Dollars for a month's `quantity`.
    pub(crate) fn dollars(&self, quantity: f64) -> f64 {
        if let Some(value) = self.value {
            return quantity * value / self.per;
        }
        let (mut dollars, mut below) = (0.0, 0.0);
        for tier in &self.tiers {
            let up_to = tier.up_to.unwrap_or(f64::INFINITY);
            dollars += (quantity.min(up_to) - below).max(0.0) * tier.value / self.per;
            below = up_to;
        }
        dollars
    }

    fn check(&self) -> Result<()> {
        ensure!(self.per > 0.0, "price {}: `per` must be more than 0", self.name);
        let is_open_ended = self.tiers.last().is_some_and(|tier| tier.up_to.is_none());
        match (self.value, is_open_ended) {
            (Some(_), _) if self.tiers.is_empty() => Ok(()),
            (None, true) => Ok(()),
            _ => bail!("price {}: give `value`, or `tiers` whose last one has no `up_to`", self.name),
        }
    }
}

/// What an account may use before it asks for more.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quota {
    pub(crate) name: String,
    pub(crate) unit: String,
    #[serde(rename = "us-east-1")]
    us_east_1: f64,
    #[serde(rename = "eu-central-1")]
    eu_central_1: f64,
    pub(crate) adjustable: bool,
    pub(crate) source: Source,
    #[expect(dead_code, reason = "for who reads the file; parsed so that it may be there")]
    note: Option<String>,
}

impl Quota {
    /// The default in `region`, which is one of [`REGIONS`].
    pub(crate) fn value(&self, region: &str) -> f64 {
        if region == HOME_REGION { self.us_east_1 } else { self.eu_central_1 }
    }
}

/// Mean sizes around one envelope, bytes; all measured.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sizes {
    /// Samples in it: values of one signal at one time.
    pub(crate) samples: f64,
    /// The envelope as the vehicle sends it.
    pub(crate) envelope: f64,
    /// Its record in the stream.
    pub(crate) record: f64,
    /// The event that one customer gets of it, JSON.
    pub(crate) event_json: f64,
    /// That event, compressed alone.
    pub(crate) event_alone: f64,
    /// That event's share when eight are compressed together.
    pub(crate) event_packed: f64,
    /// Its share of a compressed archive object.
    pub(crate) archived: f64,
}

/// Events that were compressed together for [`Sizes::event_packed`].
const PACKED_EVENTS: f64 = 8.0;

impl Sizes {
    fn blend(left: &Self, right: &Self, weight: f64) -> Self {
        let mix = |get: fn(&Self) -> f64| get(left) + (get(right) - get(left)) * weight;
        Self {
            samples: mix(|sizes| sizes.samples),
            envelope: mix(|sizes| sizes.envelope),
            record: mix(|sizes| sizes.record),
            event_json: mix(|sizes| sizes.event_json),
            event_alone: mix(|sizes| sizes.event_alone),
            event_packed: mix(|sizes| sizes.event_packed),
            archived: mix(|sizes| sizes.archived),
        }
    }

    /// An event's share when `events` are compressed together: what they repeat is paid once.
    pub(crate) fn event_among(&self, events: f64) -> f64 {
        let own = (PACKED_EVENTS * self.event_packed - self.event_alone) / (PACKED_EVENTS - 1.0);
        own + (self.event_alone - own) / events.max(1.0)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredSizes {
    source: Source,
    /// The command that measures them.
    note: String,
    window: Vec<Sizes>,
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    /// Seconds of a month.
    pub(crate) month_s: f64,
    /// Bytes of what AWS bills as a GB.
    pub(crate) gb_bytes: f64,
    price: Vec<Price>,
    quota: Vec<Quota>,
    sizes: MeasuredSizes,
}

impl Book {
    /// The file of the repository.
    ///
    /// # Errors
    /// When it is not what this program expects.
    pub(crate) fn of_repository() -> Result<Self> {
        Self::parse(DATA).context("read xtask/data/aws-prices-2026-11.toml")
    }

    fn parse(text: &str) -> Result<Self> {
        let book: Self = toml::from_str(text)?;
        for (index, price) in book.price.iter().enumerate() {
            price.check()?;
            let same = |other: &&Price| other.name == price.name && other.region == price.region;
            ensure!(!book.price[..index].iter().any(|other| same(&other)), "price {} twice", price.name);
        }
        ensure!(book.sizes.window.len() >= 2, "at least two sizes are needed to read between them");
        let is_ours = book.sizes.source == Source::Measured && book.sizes.note.contains("cargo xtask bench");
        ensure!(is_ours, "sizes are measured by a command of ours, which their `note` names");
        let ascend = book.sizes.window.windows(2).all(|pair| pair[0].samples < pair[1].samples);
        ensure!(ascend, "sizes must ascend by samples");
        Ok(book)
    }

    /// A price in `region`, or else us-east-1's.
    ///
    /// # Panics
    /// When the file lacks it: the names in the program and in the file are held together by a test.
    pub(crate) fn price(&self, name: &str, region: &str) -> &Price {
        let of = |wanted: Option<&str>| {
            self.price.iter().find(|price| price.name == name && price.region.as_deref() == wanted)
        };
        of(Some(region)).or_else(|| of(None)).unwrap_or_else(|| panic!("the data file has no price {name}"))
    }

    /// Has `region` a price of its own?
    pub(crate) fn has_own_price(&self, name: &str, region: &str) -> bool {
        region == HOME_REGION
            || self.price.iter().any(|price| price.name == name && price.region.as_deref() == Some(region))
    }

    /// A quota by its name.
    ///
    /// # Panics
    /// As [`Book::price`].
    pub(crate) fn quota(&self, name: &str) -> &Quota {
        let found = self.quota.iter().find(|quota| quota.name == name);
        found.unwrap_or_else(|| panic!("the data file has no quota {name}"))
    }

    /// Sizes of an envelope with `samples`, read between the measured ones, along the outermost two beyond them.
    pub(crate) fn sizes(&self, samples: f64) -> Sizes {
        let last = self.sizes.window.len() - 2;
        let left = self.sizes.window[..=last].iter().rposition(|size| size.samples <= samples).unwrap_or(0);
        let (left, right) = (&self.sizes.window[left], &self.sizes.window[left + 1]);
        Sizes::blend(left, right, (samples - left.samples) / (right.samples - left.samples))
    }

    /// The measured sizes.
    pub(crate) fn measured(&self) -> &[Sizes] {
        &self.sizes.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::of_repository().unwrap()
    }

    #[test]
    fn tiers_are_paid_one_after_the_other() {
        let book = book();
        let messages = book.price("iot_messages", HOME_REGION);
        assert_eq!(messages.dollars(1e9), 1_000.0);
        assert_eq!(messages.dollars(1e9 + 1e6), 1_000.8);
        assert_eq!(messages.dollars(5e9), 4_200.0);
        assert_eq!(messages.dollars(6e9), 4_900.0);
        assert_eq!(book.price("sqs_requests", HOME_REGION).dollars(250e9), 82_000.0);
    }

    #[test]
    fn a_region_takes_its_own_price_or_the_home_regions() {
        let book = book();
        assert_eq!(book.price("dynamodb_wru", "eu-central-1").dollars(1e6), 0.7625);
        assert_eq!(book.price("eventbridge_events", "eu-central-1").dollars(1e6), 1.0);
        assert!(book.has_own_price("dynamodb_wru", "eu-central-1"));
        assert!(!book.has_own_price("eventbridge_events", "eu-central-1"));
    }

    #[test]
    fn sizes_are_exact_where_they_were_measured_and_straight_between() {
        let book = book();
        let [first, second, ..] = book.measured() else { panic!("two sizes") };
        assert_eq!(book.sizes(first.samples), *first);
        let middle = book.sizes((first.samples + second.samples) / 2.0);
        assert!((middle.envelope - (first.envelope + second.envelope) / 2.0).abs() < 1e-9);
        assert!(book.sizes(1.0).envelope < first.envelope);
        assert!(book.sizes(3_000.0).envelope > 2_000.0);
    }

    #[test]
    fn events_compressed_together_cost_what_was_measured() {
        let sizes = book().sizes(91.7);
        assert!((sizes.event_among(1.0) - sizes.event_alone).abs() < 1e-9);
        assert!((sizes.event_among(8.0) - sizes.event_packed).abs() < 1e-9);
        assert!(sizes.event_among(100.0) < sizes.event_packed);
    }

    #[test]
    fn a_price_without_an_open_end_is_refused() {
        let text = "month_s = 1\ngb_bytes = 1\nquota = []\n[[price]]\nname = \"a\"\nunit = \"b\"\nper = 1\n\
                    tiers = [{ up_to = 5, value = 1 }]\nsource = \"recalled\"\n[sizes]\nsource = \"measured\"\nnote = \"\"\nwindow = []\n";
        let error = Book::parse(text).unwrap_err().to_string();
        assert_eq!(error, "price a: give `value`, or `tiers` whose last one has no `up_to`");
    }
}
