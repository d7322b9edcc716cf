//! TCP and TLS.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, rustls};

use super::{HttpError, Options, Origin};

/// Connects to servers. Cheap to clone; the system's certificates are read at the first TLS connection.
#[derive(Debug, Clone, Default)]
pub struct Client {
    options: Options,
    tls: Arc<OnceLock<Result<Arc<ClientConfig>, HttpError>>>,
}

impl Client {
    /// A client that connects in the given way.
    pub fn new(options: Options) -> Self {
        Self { options, tls: Arc::default() }
    }

    /// A connection without Nagle's delay.
    ///
    /// # Errors
    /// [`HttpError`], of which `Connect`, `Tls`, `Certificates` and `Deadline` can happen here.
    pub async fn connect(&self, origin: &Origin) -> Result<Stream, HttpError> {
        let deadline = self.options.connect_deadline;
        match timeout(deadline, self.connect_at_leisure(origin)).await {
            Ok(result) => result,
            Err(_) => Err(late("connecting", origin, deadline)),
        }
    }

    async fn connect_at_leisure(&self, origin: &Origin) -> Result<Stream, HttpError> {
        let refused = |e: io::Error| HttpError::Connect { origin: origin.to_string(), reason: e.to_string() };
        let tcp = TcpStream::connect((origin.host.as_str(), origin.port)).await.map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        if !origin.tls {
            return Ok(Stream::Plain(tcp));
        }
        let config = self.tls.get_or_init(|| tls_config(self.options.ca_file.as_deref())).clone()?;
        let failed = |reason: String| HttpError::Tls { origin: origin.to_string(), reason };
        let name = ServerName::try_from(origin.host.clone()).map_err(|e| failed(e.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(e.to_string()))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

pub(super) fn late(what: &'static str, origin: &Origin, deadline: Duration) -> HttpError {
    HttpError::Deadline { what, origin: origin.to_string(), seconds: deadline.as_secs_f64() }
}

/// Trusts the system's certificates and those of the file.
fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, HttpError> {
    let mut roots = RootCertStore::empty();
    // A system has broken certificates among hundreds of good ones; a missing root shows when it is needed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |reason: String| HttpError::Certificates { path: path.display().to_string(), reason };
        let mut any = false;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))? {
            let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
            roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
            any = true;
        }
        if !any {
            return Err(wrong("it holds no certificate in PEM form".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| HttpError::Certificates { path: "the system".to_owned(), reason: e.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection with a server.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Has the kernel acknowledge what arrives at once, or after a while. Linux goes back to the latter whenever the
    /// connection sends, and a server with Nagle's algorithm holds its next packet back for the acknowledgement: 40 ms
    /// per answer. At one packet per token, acknowledgements are a third of what receiving costs.
    ///
    /// Nothing elsewhere.
    pub fn acknowledge(&self, at_once: bool) {
        #[cfg(target_os = "linux")]
        {
            let tcp = match self {
                Stream::Plain(tcp) => tcp,
                Stream::Tls(tls) => tls.get_ref().0,
            };
            // Where it fails the connection is gone, which the next read says better.
            let _ = tcp.set_quickack(at_once);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = at_once;
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
