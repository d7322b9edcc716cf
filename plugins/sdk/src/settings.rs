//! The user's settings, read with the defaults that the plugin describes.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::{About, Error, Job};

/// What the user set, over the defaults of [`About`].
///
/// ```
/// # use sla_profiler_plugin::{About, Error, Job, Settings};
/// fn samples(job: &Job) -> Result<u32, Error> {
///     let about = About::new("mine", "0.1.0", "…").setting("samples", "32", "requests per point");
///     Settings::new(about, job)?.number("samples", 1..=1000)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Settings {
    plugin: String,
    values: Vec<(String, String)>,
}

impl Settings {
    /// # Errors
    /// [`Error::BadSetting`] for a name that is not described.
    pub fn new(about: About, job: &Job) -> Result<Self, Error> {
        let mut values: Vec<_> = about.settings.into_iter().map(|s| (s.name, s.default)).collect();
        for (name, value) in &job.settings {
            let Some(known) = values.iter_mut().find(|(known, _)| known == name) else {
                let known: Vec<_> = values.iter().map(|(known, _)| known.as_str()).collect();
                let known = if known.is_empty() { "no settings".to_owned() } else { known.join(", ") };
                return Err(Error::BadSetting(format!("{} has no setting {name:?}; it has {known}", about.name)));
            };
            known.1.clone_from(value);
        }
        Ok(Self { plugin: about.name, values })
    }

    /// The setting as a number within bounds.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if it is none, or lies outside; NaN always does.
    pub fn number<T: FromStr + PartialOrd + Display>(&self, name: &str, range: RangeInclusive<T>) -> Result<T, Error> {
        let text = self.text(name)?;
        text.trim().parse().ok().filter(|value| range.contains(value)).ok_or_else(|| {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            Error::BadSetting(format!("{name} is {text:?}, but must be {expected}"))
        })
    }

    /// The setting as a number within bounds, or `None` where it is empty.
    ///
    /// # Errors
    /// As [`Settings::number`].
    pub fn optional_number<T: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, Error> {
        if self.text(name)?.trim().is_empty() { Ok(None) } else { self.number(name, range).map(Some) }
    }

    /// The setting as yes or no.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if it is neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        let text = self.text(name)?;
        text.trim().parse().map_err(|_| Error::BadSetting(format!("{name} is {text:?}, but must be true or false")))
    }

    /// The setting as it stands.
    ///
    /// # Errors
    /// [`Error::Other`] if the plugin asks for what it does not describe.
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        let found = self.values.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| Error::Other(format!("{} reads {name:?}, which it does not describe", self.plugin)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::job;

    fn about() -> About {
        About::new("mine", "1.0.0", "…").setting("x", "3", "").setting("on", "true", "").setting("opt", "", "")
    }

    fn with(name: &str, value: &str) -> Job {
        Job { settings: vec![(name.into(), value.into())], ..job() }
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let Err(Error::BadSetting(text)) = Settings::new(about(), &with("x", "many")).unwrap().number("x", 1..=9)
        else {
            panic!("accepted")
        };
        assert_eq!(text, "x is \"many\", but must be a number from 1 to 9");
    }

    #[test]
    fn described_defaults_apply_and_the_user_overrides_them() {
        let defaults = Settings::new(about(), &job()).unwrap();
        assert_eq!(defaults.number("x", 1..=9), Ok(3));
        assert_eq!(defaults.flag("on"), Ok(true));
        assert_eq!(defaults.optional_number::<f64>("opt", 0.0..=1.0), Ok(None));
        assert_eq!(Settings::new(about(), &with("x", " 7 ")).unwrap().number("x", 1..=9), Ok(7));
        assert_eq!(
            Settings::new(about(), &with("opt", "0.5")).unwrap().optional_number("opt", 0.0..=1.0),
            Ok(Some(0.5))
        );
    }

    #[test]
    fn unknown_names_are_refused_and_the_known_ones_told() {
        let Err(Error::BadSetting(text)) = Settings::new(about(), &with("y", "1")) else { panic!("accepted") };
        assert_eq!(text, "mine has no setting \"y\"; it has x, on, opt");
    }

    #[test]
    fn out_of_range_nan_and_nonsense_are_refused() {
        for bad in ["0", "10", "three", "", "NaN"] {
            let settings = Settings::new(about(), &with("x", bad)).unwrap();
            assert!(matches!(settings.number("x", 1..=9), Err(Error::BadSetting(_))), "{bad}");
            assert!(matches!(settings.number("x", 1.0..=9.0), Err(Error::BadSetting(_))), "{bad}");
        }
        assert!(matches!(Settings::new(about(), &with("on", "maybe")).unwrap().flag("on"), Err(Error::BadSetting(_))));
    }
}
