//! Ports of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use crate::http::Origin;

/// Ports that this process has given to engines that run.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

/// Ports of one engine; given back on drop.
#[derive(Debug)]
pub(super) struct Leased {
    pub by_name: BTreeMap<String, u16>,
    ports: Ports,
}

impl Drop for Leased {
    fn drop(&mut self) {
        let mut taken = self.ports.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.by_name.values().for_each(|port| {
            taken.remove(port);
        });
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Refuses a URL that somebody else answers at already: a template may have a port of its own instead of `{port}`, and
/// whoever has it would be measured in the engine's place.
///
/// # Errors
/// If the port is taken.
pub(super) fn check_own(url: &str, leased: &Leased) -> Result<(), String> {
    let origin: Origin = url.parse().map_err(|error: crate::http::HttpError| error.to_string())?;
    let is_here = ["127.0.0.1", "localhost", "::1"].contains(&origin.host.as_str());
    if !is_here || leased.by_name.values().any(|port| *port == origin.port) {
        return Ok(());
    }
    match bind(origin.port) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!(
            "port {} of {url} is taken by another process; end that, or write {{port}} for a free one",
            origin.port
        )),
        _ => Ok(()),
    }
}

impl Ports {
    /// A port for each name: the fixed one, or any that is free. What is free now may be taken a moment later; the
    /// engine will then say so and end.
    ///
    /// # Errors
    /// If a fixed port is taken, with its name and number.
    pub fn lease(&self, names: &BTreeSet<String>, fixed: &BTreeMap<String, u16>) -> Result<Leased, String> {
        let mut leased = Leased { by_name: BTreeMap::new(), ports: self.clone() };
        // Listening on all of them until the last one is found keeps them apart.
        let mut listeners = Vec::new();
        for name in names {
            loop {
                let wanted = fixed.get(name).copied();
                let listener = bind(wanted.unwrap_or(0)).map_err(|error| match wanted {
                    Some(port) if error.kind() == io::ErrorKind::AddrInUse => format!(
                        "port {port} ({name}) is taken by another process; end that, or leave the port out of `ports` for \
                         a free one"
                    ),
                    Some(port) => format!("port {port} ({name}) cannot be used: {error}"),
                    None => format!("no port is free: {error}"),
                })?;
                let port = listener.local_addr().map_err(|error| error.to_string())?.port();
                listeners.push(listener);
                let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if taken.insert(port) {
                    leased.by_name.insert(name.clone(), port);
                    break;
                }
                if wanted.is_some() {
                    return Err(format!(
                        "port {port} ({name}) is fixed, and another engine of this run has it; leave it out of `ports`, \
                         or give --total-gpus so that engines run one after the other"
                    ));
                }
            }
        }
        Ok(leased)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ports_are_free_and_different() {
        let ports = Ports::default();
        let one = ports.lease(&names(&["http", "system"]), &BTreeMap::new()).unwrap();
        let two = ports.lease(&names(&["http", "system"]), &BTreeMap::new()).unwrap();
        let all: BTreeSet<u16> = one.by_name.values().chain(two.by_name.values()).copied().collect();
        assert_eq!(all.len(), 4);
        all.iter().for_each(|port| drop(bind(*port).unwrap()));
    }

    #[test]
    fn a_url_at_which_somebody_else_listens_is_refused() {
        let other = bind(0).unwrap();
        let url = format!("http://127.0.0.1:{}", other.local_addr().unwrap().port());
        let ports = Ports::default();
        let leased = ports.lease(&names(&["http"]), &BTreeMap::new()).unwrap();
        assert!(check_own(&url, &leased).unwrap_err().contains("taken by another process"));
        check_own(&format!("http://127.0.0.1:{}", leased.by_name["http"]), &leased).unwrap();
        drop(other);
        check_own(&url, &leased).unwrap();
    }

    #[test]
    fn a_fixed_port_that_is_taken_is_named() {
        let other = bind(0).unwrap();
        let port = other.local_addr().unwrap().port();
        let fixed: BTreeMap<String, u16> = [("http".to_owned(), port)].into();
        let ports = Ports::default();
        let error = ports.lease(&names(&["http"]), &fixed).unwrap_err();
        assert!(error.contains(&format!("port {port} (http) is taken by another process")), "{error}");
        drop(other);
        let leased = ports.lease(&names(&["http"]), &fixed).unwrap();
        assert!(ports.lease(&names(&["http"]), &fixed).unwrap_err().contains("another engine of this run"));
        drop(leased);
        ports.lease(&names(&["http"]), &fixed).unwrap();
    }
}
