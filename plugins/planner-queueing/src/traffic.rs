//! What kinds of request there are, and what is promised to each.

use sla_profiler_plugin::{Error, Job, Sla};

/// One kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// For a person.
    pub name: String,
    /// Fraction of all requests.
    pub share: f64,
    /// Input tokens.
    pub isl: u32,
    /// Output tokens.
    pub osl: u32,
}

/// A promise to some classes: over the requests of all of them together.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// For a person.
    pub name: String,
    /// Indices of the classes, with their shares of this objective's requests.
    pub members: Vec<(usize, f64)>,
    /// Targets and statistic.
    pub sla: Sla,
}

/// All requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Never empty; shares sum up to 1.
    pub classes: Vec<Class>,
    /// Never empty.
    pub objectives: Vec<Objective>,
}

/// For the error messages and the description of the setting.
pub const SYNTAX: &str = "`name share isl/osl [ttft=MS] [itl=MS] [e2e=MS] [quantile=Q]`, separated by `;`";

/// More classes than anybody tells apart; bounds the work.
const MOST_CLASSES: usize = 16;

impl Traffic {
    /// The setting's text; empty: all requests are the job's.
    ///
    /// Classes without targets of their own share the job's SLA, whose statistic is then over the requests of all of them.
    ///
    /// # Errors
    /// [`Error::BadSetting`] says which entry is wrong and how.
    pub fn parse(text: &str, job: &Job) -> Result<Self, Error> {
        let entries: Vec<&str> = text.split(';').map(str::trim).filter(|entry| !entry.is_empty()).collect();
        if entries.is_empty() {
            let class = Class { name: "all".to_owned(), share: 1.0, isl: job.workload.isl, osl: job.workload.osl };
            let objective = Objective { name: "all".to_owned(), members: vec![(0, 1.0)], sla: job.sla };
            return Ok(Self { classes: vec![class], objectives: vec![objective] });
        }
        if entries.len() > MOST_CLASSES {
            return Err(bad(text, &format!("it has {} classes, the most are {MOST_CLASSES}", entries.len())));
        }
        let (mut classes, mut own) = (Vec::new(), Vec::new());
        for entry in entries {
            let (class, sla) = class(entry, job)?;
            if classes.iter().any(|known: &Class| known.name == class.name) {
                return Err(bad(entry, "a class of that name was given before"));
            }
            own.push(sla);
            classes.push(class);
        }
        let total: f64 = classes.iter().map(|c| c.share).sum();
        classes.iter_mut().for_each(|c| c.share /= total);
        let mut objectives = Vec::new();
        let shared: Vec<usize> = own.iter().enumerate().filter(|(_, sla)| sla.is_none()).map(|(i, _)| i).collect();
        let named = |members: &[usize]| members.iter().filter_map(|i| classes.get(*i)).collect::<Vec<_>>();
        let objective = |members: &[usize], sla: Sla| {
            let of = named(members);
            let total: f64 = of.iter().map(|c| c.share).sum();
            Objective {
                name: of.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(" + "),
                members: members.iter().zip(&of).map(|(i, c)| (*i, c.share / total)).collect(),
                sla,
            }
        };
        if !shared.is_empty() {
            objectives.push(objective(&shared, job.sla));
        }
        objectives.extend(own.iter().enumerate().filter_map(|(i, sla)| Some(objective(&[i], (*sla)?))));
        Ok(Self { classes, objectives })
    }

    /// Mean output tokens of a request.
    pub fn osl(&self) -> f64 {
        self.classes.iter().map(|c| c.share * f64::from(c.osl)).sum()
    }

    /// Mean tokens in the cache of a request that is being decoded. Long answers are in flight for longer, so that they
    /// count for more.
    pub fn context(&self) -> f64 {
        let tokens = |c: &Class| c.share * f64::from(c.osl) * (f64::from(c.isl) + f64::from(c.osl) / 2.0);
        self.classes.iter().map(tokens).sum::<f64>() / self.osl()
    }
}

fn bad(entry: &str, why: &str) -> Error {
    Error::BadSetting(format!("traffic: {entry:?}: {why}; a class is written as {SYNTAX}"))
}

/// A class, and its own targets if it has any.
fn class(entry: &str, job: &Job) -> Result<(Class, Option<Sla>), Error> {
    let mut words = entry.split_whitespace();
    let (Some(name), Some(share), Some(lengths)) = (words.next(), words.next(), words.next()) else {
        return Err(bad(entry, "a name, a share and lengths are needed"));
    };
    let share = share.parse().ok().filter(|share| *share > 0.0 && *share <= 1e6);
    let share: f64 = share.ok_or_else(|| bad(entry, "the share must be a number above 0"))?;
    let tokens = |text: &str| text.parse().ok().filter(|n| (1..=10_000_000).contains(n));
    let lengths = lengths.split_once('/').and_then(|(isl, osl)| Some((tokens(isl)?, tokens(osl)?)));
    let (isl, osl) = lengths.ok_or_else(|| bad(entry, "the lengths must be like 3000/150"))?;
    let mut sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile: job.sla.quantile };
    let mut own_quantile = false;
    for word in words {
        let known = word.split_once('=').and_then(|(key, value)| Some((key, value.parse::<f64>().ok()?)));
        let (key, value) = known.ok_or_else(|| bad(entry, &format!("{word:?} is no target")))?;
        let slot = match key {
            "ttft" => &mut sla.ttft_ms,
            "itl" => &mut sla.itl_ms,
            "e2e" => &mut sla.e2e_ms,
            "quantile" if value > 0.0 && value < 1.0 => {
                own_quantile = true;
                &mut sla.quantile
            }
            "quantile" => return Err(bad(entry, "the quantile must lie between 0 and 1")),
            other => return Err(bad(entry, &format!("there is no target {other:?}"))),
        };
        if !(value > 0.0 && value.is_finite()) {
            return Err(bad(entry, &format!("{word:?} must be above 0")));
        }
        *slot = Some(value);
    }
    let has_targets = sla.ttft_ms.is_some() || sla.itl_ms.is_some() || sla.e2e_ms.is_some();
    if own_quantile && !has_targets {
        (sla.ttft_ms, sla.itl_ms, sla.e2e_ms) = (job.sla.ttft_ms, job.sla.itl_ms, job.sla.e2e_ms);
    }
    let class = Class { name: name.to_owned(), share, isl, osl };
    Ok((class, (has_targets || own_quantile).then_some(sla)))
}
