//! Which server a URL names.

use std::fmt;
use std::str::FromStr;

use super::HttpError;

/// Scheme, host, port and a path that all requests begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Begins with a slash unless empty; has none at the end.
    pub prefix: String,
}

impl Origin {
    /// `host:port`, the `Host` header; the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// The request target of a path that begins with a slash.
    pub fn target(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

/// `http://host:port`, without the prefix.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl FromStr for Origin {
    type Err = HttpError;

    fn from_str(url: &str) -> Result<Self, HttpError> {
        let wrong = |reason: &str| HttpError::Url { url: without_password(url), reason: reason.to_owned() };
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("it contains white space"));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong("a query or fragment makes no sense here"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("a user name or password does not belong in a URL; give an API key instead"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or_else(|| wrong("`[` without `]`"))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|p| *p > 0).ok_or_else(|| wrong("the port is not 1 to 65535"))?,
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(wrong("something stands between the address and the path")),
        };
        Ok(Self { tls, host: host.to_owned(), port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

/// Errors are printed and logged; passwords are not.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let (start, end) = (url.get(..scheme + 3).unwrap_or_default(), url.get(at..).unwrap_or_default());
            format!("{start}…{end}")
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (bool, String, u16, String) {
        let origin: Origin = url.parse().unwrap();
        (origin.tls, origin.host, origin.port, origin.prefix)
    }

    #[test]
    fn a_url_names_scheme_host_port_and_prefix() {
        assert_eq!(parts("http://127.0.0.1:8000"), (false, "127.0.0.1".into(), 8000, String::new()));
        assert_eq!(parts("https://example.org/"), (true, "example.org".into(), 443, String::new()));
        assert_eq!(parts("http://gateway/models/a/"), (false, "gateway".into(), 80, "/models/a".into()));
        assert_eq!(parts("http://[::1]:81/x"), (false, "::1".into(), 81, "/x".into()));
    }

    #[test]
    fn the_host_header_has_brackets_and_no_usual_port() {
        for url in ["http://[::1]:81", "https://example.org", "http://example.org:443"] {
            assert_eq!(url.parse::<Origin>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_its_fault() {
        for (url, fault) in [
            ("localhost:8000", "neither"),
            ("http://", "host is missing"),
            ("http://:80", "host is missing"),
            ("http://a:0", "port"),
            ("http://a:99999", "port"),
            ("http://[::1", "without"),
            ("http://[::1]x", "between"),
            ("http://a b", "white space"),
            ("http://a/?x=1", "query"),
        ] {
            let error = url.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains(url), "{error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_printed() {
        let error = "http://me:hunter2@host/".parse::<Origin>().unwrap_err().to_string();
        assert!(error.contains("API key") && !error.contains("hunter2"), "{error}");
    }
}
